"""Many members as one compiled program, over devices; offline and online."""
