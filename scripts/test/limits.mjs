/** Seconds a test program may take; those not named here get `standard`. */
export const limits = {
  standard: 240,
  flrc_cuda_test: 600,
  flrc_cuda_session_test: 600,
  flrc_test_sanitized: 600,
  'format-fuzz.test': 300,
  'install.serial.test': 600,
  'real-models.test': 400,
}

/** Test files that need the machine to themselves: they time something, or fill memory. Also *.serial.test.ts. */
export const alone = []
