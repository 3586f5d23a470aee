"""The stored form of task results and exceptions, and back: no other part of the package knows it.

==============  ======================================================================
``results``     a task's result as a record, and the record as a ``TaskiqResult``
``errors``      an exception as data, and back
``keys``        the storage keys of what belongs to an id
==============  ======================================================================
"""
