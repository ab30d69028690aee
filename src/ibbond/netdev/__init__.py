"""What a Linux network device is, as a pure model.

Flags, addresses, groups, carrier, MTU, and notification of changes.
"""
