# Of chips of compute capability 9.0 only code for 90a has warpgroup products: what "native" leaves out.
if(CMAKE_CUDA_ARCHITECTURES STREQUAL "native" AND CMAKE_CUDA_ARCHITECTURES_NATIVE MATCHES "^90")
  set(CMAKE_CUDA_ARCHITECTURES 90a-real)
endif()
