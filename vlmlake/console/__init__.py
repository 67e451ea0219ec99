"""What the verbs show on a terminal."""

from vlmlake.console.tables import errors, print_info, print_results, print_table, terminal

__all__ = ["errors", "print_info", "print_results", "print_table", "terminal"]
