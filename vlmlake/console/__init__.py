"""What the verbs show on a terminal."""

from vlmlake.console.tables import print_info, print_results, print_table, terminal

__all__ = ["print_info", "print_results", "print_table", "terminal"]
