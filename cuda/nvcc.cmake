# Of chips of compute capability 9.0 only code for 90a has warpgroup products: what "native" leaves out.
if(CMAKE_CUDA_ARCHITECTURES STREQUAL "native" AND CMAKE_CUDA_ARCHITECTURES_NATIVE MATCHES "^90")
  set(CMAKE_CUDA_ARCHITECTURES 90a-real)
endif()

# What is computed in several kernels must have the same bits in all of them. nvcc makes one instruction of a product
# and a sum where it sees fit, which need not be everywhere the same; what is to be one is written as one
# (fusedMultiplyAdd).
string(APPEND CMAKE_CUDA_FLAGS " -fmad=false")
