"""A thread that looks after the books beside those who use them, on a connection of its own."""

import logging
import threading

from proxy.errors import TallyError
from proxy.ledger.books import Books
from proxy.ledger.database import StoreLost

_log = logging.getLogger(__name__)


class Watch:
    """Has `books` tended every so many seconds, until it is told to stop. Nobody else may use them.

    What is lost is tried again the next time, so that a server without requests makes its connection anew, too.
    """

    def __init__(self, books: Books, error: type[Exception], every_s: float) -> None:
        self._books = books
        self._error = error
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tally-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let go of the books, once what is being done is done."""
        self._stopping.set()
        self._thread.join()
        self._books.close()

    def _work(self) -> None:
        well = True
        while not self._stopping.wait(self._every_s):
            try:
                self._books.tend()
                well = True
            except (StoreLost, TallyError, self._error) as error:
                if well:
                    _log.warning("the ledger cannot be looked after: %s", error)
                well = False
