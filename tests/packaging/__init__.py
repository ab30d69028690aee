"""Tests of what is installed: the wheel, the action, the container."""
