#include <cstddef>
#include <cstring>

// The only function of the Fortran run-time library that OpenBLAS's LAPACK refers to (it builds option
// strings for ilaenv from two characters). Defining it here keeps libgfortran out of the link and out of the
// machine we run on.
extern "C" void _gfortran_concat_string(size_t targetLength, char* target, size_t firstLength,
                                        const char* first, size_t secondLength, const char* second) {
  const size_t head = firstLength < targetLength ? firstLength : targetLength;
  std::memcpy(target, first, head);
  const size_t room = targetLength - head;
  const size_t tail = secondLength < room ? secondLength : room;
  std::memcpy(target + head, second, tail);
  std::memset(target + head + tail, ' ', room - tail);
}
