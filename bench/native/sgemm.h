#pragma once

// Prints one JSON line: GFLOPS of square products in fp32 that `threads` threads (0: all cores) do side by
// side, one each, in every round.
void measureSgemm(int threads, int rounds);
