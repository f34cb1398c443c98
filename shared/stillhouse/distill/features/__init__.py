"""What a student learns from inside of the teacher: hidden states and attention, one file for each method."""
