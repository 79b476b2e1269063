"""Finding the time steps of an unrolled net, and what they become: loops, and layers that take all steps at once."""
