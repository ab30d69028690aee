"""How properties are searched: without time limits (machines are shared), and in CI the same examples every time.

And Ctrl-C works in the programs under test, also if the caller of the tests ignores it (nohup, a shell's `&`).
"""

import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
