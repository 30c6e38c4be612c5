# The CPU addon. `flrc_tests=true` (set by `npm test`) adds the C++ unit tests, once plain and once under
# AddressSanitizer and UndefinedBehaviorSanitizer; `flrc_bench=true` the program that times kernels.
# `flrc_platform` names what is built for as Node does. It is another than gyp's OS where Linux builds for Windows: that
# takes GCC, and so what gyp knows of Linux. Visual Studio's compiler builds none of this.
{
  'variables': {
    'variables': {'flrc_platform%': '<!(node -p process.platform)'},
    'flrc_platform%': '<(flrc_platform)',
    'flrc_tests%': 'false',
    'flrc_bench%': 'false',
    'openblas_library%': '<!(node scripts/native/openblas.mjs library <(flrc_platform)-<(target_arch))',
    'openblas_include%': '<!(node scripts/native/openblas.mjs include <(flrc_platform)-<(target_arch))',
  },
  'target_defaults': {
    'include_dirs': ['native'],
    'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17', '-std=gnu++20'],
    # -Wrestrict: GCC 12 warns of its own std::string (GCC bug 105651).
    'cflags_cc': ['-std=c++20', '-fexceptions', '-ffp-contract=off', '-Wall', '-Wextra', '-Wno-restrict'],
    'cflags': [
      '-fvisibility=hidden',
      '-ffunction-sections',
      '-fdata-sections',
      # No path of the building machine in the binary.
      '-ffile-prefix-map="<(module_root_dir)"=.',
      # BLAS and LAPACK headers are another project's: their warnings are not ours to mend.
      '-isystem', '<(openblas_include)',
    ],
    'conditions': [
      ['flrc_platform=="win32"', {
        'defines': ['WIN32_LEAN_AND_MEAN', 'NOMINMAX', '_WIN32_WINNT=0x0A00'],
        'cflags!': ['-fPIC'],
        # Windows aligns stacks to 16 bytes, and GCC does not align what it spills of wider vectors (GCC bug 54412).
        'cflags': ['-Wa,-muse-unaligned-vector-move'],
        'ldflags!': ['-rdynamic'],
        'ldflags': ['-static', '-Wl,--no-insert-timestamp'],
        'target_conditions': [['_type=="executable"', {'product_extension': 'exe'}]],
      }],
      # For Apple's compiler gyp takes neither `cflags` nor `ldflags`.
      ['OS=="mac"', {
        'xcode_settings': {
          'MACOSX_DEPLOYMENT_TARGET': '13.3',
          'CLANG_CXX_LANGUAGE_STANDARD': 'c++20',
          'GCC_ENABLE_CPP_EXCEPTIONS': 'YES',
          'GCC_ENABLE_CPP_RTTI': 'YES',
          'GCC_SYMBOLS_PRIVATE_EXTERN': 'YES',
          'OTHER_CFLAGS': [
            '-ffp-contract=off',
            '-ffile-prefix-map="<(module_root_dir)"=.',
            '-isystem', '<(openblas_include)',
          ],
          'OTHER_LDFLAGS': ['-Wl,-dead_strip', '-Wl,-rpath,@loader_path'],
        },
      }],
    ],
  },
  'targets': [
    {
      'target_name': 'flrc_core',
      'type': 'static_library',
      'sources': ['<!@(node scripts/native/sources.mjs core <(flrc_platform))'],
      'link_settings': {
        'libraries': ['<(openblas_library)'],
        'conditions': [
          ['flrc_platform=="linux"', {
            'libraries': ['-lpthread', '-lm'],
            'ldflags': [
              # OpenBLAS, which comes after our archive on the command line, wants the Fortran run-time of
              # native/linalg/fortran.cc; this has the linker take it in time.
              '-Wl,-u,_gfortran_concat_string',
              '<!@(node scripts/native/openblas.mjs ldflags <(flrc_platform)-<(target_arch))',
            ],
          }],
        ],
        'ldflags': ['-Wl,--gc-sections'],
      },
    },
    {
      'target_name': 'flrc',
      'type': 'loadable_module',
      'dependencies': ['flrc_core'],
      'sources': ['<!@(node scripts/native/sources.mjs addon <(flrc_platform))'],
      'include_dirs': ['<!(node -p "require(\'node-addon-api\').include_dir")'],
      'defines': [
        'NAPI_VERSION=9',
        'NODE_ADDON_API_CPP_EXCEPTIONS',
        # Or a worker thread that is terminated while it calls the addon ends the process.
        'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
      ],
      'conditions': [
        ['flrc_platform=="linux"', {
          'ldflags': [
            # Nothing of the libraries inside may meet another addon's copy of them.
            '-Wl,--version-script=../scripts/native/exports.map',
            '-static-libstdc++',
            '-static-libgcc',
            # The end of a worker thread would otherwise unload the code under our pool's feet.
            '-Wl,-z,nodelete',
          ],
        }],
        ['flrc_platform=="win32"', {'libraries': ['<!(node scripts/native/node-library.mjs)']}],
      ],
    },
  ],
  'conditions': [
    ['flrc_bench=="true"', {
      'targets': [
        {
          'target_name': 'flrc_bench',
          'type': 'executable',
          'dependencies': ['flrc_core'],
          'sources': ['<!@(node scripts/native/sources.mjs bench)'],
        },
      ],
    }],
    ['flrc_tests=="true"', {
      'targets': [
        {
          'target_name': 'flrc_test',
          'type': 'executable',
          'dependencies': ['flrc_core'],
          'sources': ['<!@(node scripts/native/sources.mjs tests)'],
          'include_dirs': ['test/native'],
        },
        {
          # Opens the CUDA plugin, whose emulator has stacks of its own, which sanitizers do not know.
          'target_name': 'flrc_cuda_session_test',
          'type': 'executable',
          'dependencies': ['flrc_core'],
          'sources': ['<!@(node scripts/native/sources.mjs cuda-tests)'],
          'include_dirs': ['test/native'],
        },
        {
          'target_name': 'flrc_test_sanitized',
          'type': 'executable',
          'sources': [
            '<!@(node scripts/native/sources.mjs core <(flrc_platform))',
            '<!@(node scripts/native/sources.mjs tests)',
          ],
          'include_dirs': ['test/native'],
          'libraries': ['<(openblas_library)', '-lpthread', '-lm'],
          'defines': ['_GLIBCXX_ASSERTIONS', 'FLRC_SANITIZED'],
          'cflags!': ['-O3'],
          'cflags': ['-O1', '-g1', '-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
          'ldflags': ['-Wl,--gc-sections', '-fsanitize=address,undefined'],
        },
      ],
    }],
  ],
}
