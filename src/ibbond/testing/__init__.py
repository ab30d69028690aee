"""Labs as fixtures: the supported Python API (`ibbond.Lab`) and the pytest plugin built on it."""
