"""The kernel's own texts and attribute formats, parsed and rendered: our view writes what our backend reads."""
