"""Lets vLLM fork its processes, as it does on GPUs. Python imports this module at start if its folder is on the path.

On CPUs vLLM starts new processes, which import it again, because threads of OpenMP do not survive a fork. With one
thread per process (OMP_NUM_THREADS=1) there are none.
"""

import multiprocessing

_get_context = multiprocessing.get_context
multiprocessing.get_context = lambda _method=None: _get_context("fork")
