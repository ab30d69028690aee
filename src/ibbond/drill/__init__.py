"""Failover drills: a bond is made to fail on purpose, what it cost is measured, and the fault is undone."""
