"""What a call leaves behind: its sound, its timeline, its figures; where they lie, for how long, and who has them."""
