"""Language models made smaller by leaving out what matters least: whole layers, neurons, attention heads."""
