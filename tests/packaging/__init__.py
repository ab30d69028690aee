"""Tests of what is installed: wheel, sdist, Debian package, executable, the action, the container."""
