"""The stored form of task results and exceptions, and back: no other part of the package knows it.

==============  ======================================================================
``results``     a task's result as a record, and the record as a ``TaskiqResult``
``cached``      how a cached run of a task ended
``errors``      an exception as data, and back
``conversion``  what a task returned, as data that a storage takes
``keys``        the storage keys of what belongs to an id
==============  ======================================================================
"""
