"""What answers mean: which label rules there are, and which tokens spell a word. All rooms may read it."""
