"""What an operator does with a bond that exists: check it, watch it, collect what support needs."""
