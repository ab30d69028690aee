"""What a Linux network device is, as a pure model: flags, addresses, groups, carrier, MTU, and who hears of changes."""
