"""Files as users write them: nothing runs them, type checkers read them (``make check``).

What must be refused is marked as ignored, in the words of both checkers, which complain of an ignore without an error.
"""
