"""What runs inside the emulator's own process: MiniStack, and what this project adds to it."""
