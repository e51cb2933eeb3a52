"""What tests share: real servers started by fixtures, and the program itself as a process."""
