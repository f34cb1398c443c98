"""What a student learns from the teacher's answers alone, one file for each method. All in float32."""
