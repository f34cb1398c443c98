"""What a student learns from how the teacher places texts relative to each other, one file for each method."""
