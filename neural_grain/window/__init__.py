"""The desktop window: everything that imports tkinter, and the commands of the user."""
