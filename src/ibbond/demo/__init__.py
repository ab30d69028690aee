"""Demonstrations: traffic in a lab, cables pulled and plugged, what each failover cost, and the report."""
