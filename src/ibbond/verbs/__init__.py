"""What a port offers to software: datagrams, queue pairs, port events, timing; values only."""
