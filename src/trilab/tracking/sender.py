"""The thread that sends what runs put into their journals, so that no training waits for a store."""

import threading
import time

from trilab.errors import say
from trilab.tracking.delivery import Delivery, keep_files
from trilab.tracking.failures import Gone, reason
from trilab.tracking.outbox import Outbox

#: Longest time between two attempts while the store does not answer, in seconds.
_LONGEST_PAUSE_S = 30.0
#: The same while somebody waits for it.
_SHORT_PAUSE_S = 0.5
#: One part of the time at most is spent on sending, once the store is slow.
_SHARE = 3


class Sender:
    """Sends the records of several runs to one store, in the background.

    Args:
        delivery: to the store.
        flush_s: longest time that a record waits while the store answers, in seconds.
    """

    def __init__(self, delivery: Delivery, flush_s: float) -> None:
        self.failure: str | None = None
        self._delivery = delivery
        self._flush_s = flush_s
        self._outboxes: list[Outbox] = []
        self._changed = threading.Condition()
        self._asked = self._answered = 0
        self._stopping = False
        self._failing_since: float | None = None
        self._tried = 0  # what had been asked for when the last attempt began
        # A daemon: a store that hangs must not keep the process alive. What it has not sent is in the journals.
        self._thread = threading.Thread(target=self._work, name="trilab-sender", daemon=True)

    def begin_offline(self, why: str) -> None:
        """Notes that the store does not answer, which the user has been told of already."""
        self.failure, self._failing_since = why, time.monotonic()

    def add(self, outbox: Outbox) -> None:
        """Takes on a run."""
        with self._changed:
            self._outboxes.append(outbox)
            if not self._thread.ident:
                self._thread.start()

    def flush(self, wait_s: float) -> bool:
        """Waits until everything that was recorded so far is in the store.

        Args:
            wait_s: for so long, in seconds, while the store does not answer; where it has not for as long already,
                for one more attempt. As long as it takes what it is sent, there is no limit.

        Returns:
            Whether it is.
        """
        deadline = time.monotonic() + wait_s
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            while self._answered < mine and self._thread.is_alive():
                now = time.monotonic()
                failing = self._failing_since is not None and now - self._failing_since > wait_s
                if failing and self._tried >= mine:
                    return False
                if now > max(deadline, self._delivery.last_success + wait_s) and not self._delivery.uploading:
                    return False
                self._changed.wait(0.1)
            return self._answered >= mine

    def close(self, wait_s: float) -> bool:
        """Sends the rest, as `flush` does, and gives the journals free; removes those that are sent."""
        sent = self.flush(wait_s)
        if sent and not all(outbox.journal.is_empty() for outbox in self._outboxes):
            sent = self.flush(wait_s)  # what was noted while sending: that the store has refused something
        if not sent:
            for outbox in self._outboxes:
                keep_files(outbox)
                outbox.journal.sync()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident:  # where it hangs in a request, it gives the journals free when that ends
            self._thread.join(_SHORT_PAUSE_S)
        return sent

    def _work(self) -> None:
        pause = self._flush_s
        while not self._pause(pause):
            asked, start = self._asked, time.monotonic()
            sent = self._round()
            with self._changed:
                self._tried = asked
                self._answered = asked if sent else self._answered
                self._changed.notify_all()
            if sent:
                pause = max(self._flush_s, _SHARE * (time.monotonic() - start))
            else:
                pause = min(2 * max(pause, _SHORT_PAUSE_S), _LONGEST_PAUSE_S)
        for outbox in self._outboxes:
            if outbox.journal.is_empty():
                outbox.journal.remove()
            else:
                outbox.journal.close()

    def _pause(self, seconds: float) -> bool:
        """Waits, less long where somebody waits for the store; whether it is time to stop."""
        begin = time.monotonic()
        with self._changed:
            while not self._stopping:
                until = begin + seconds
                if self._asked > self._tried:
                    until = begin
                elif self._asked > self._answered:
                    until = min(until, begin + _SHORT_PAUSE_S)
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return self._stopping

    def _round(self) -> bool:
        """Sends what there is of every run; whether the store took it."""
        errors: list[Exception] = []
        for outbox in list(self._outboxes):
            try:
                self._send(outbox)
            except Exception as error:
                errors.append(error)
                if len(errors) > 1:
                    break  # it is not about the one run
        if errors:
            self._failed(errors[0])
            return False
        if self.failure is not None:
            say("tracking: the store answers again, and has everything now.")
            self.failure = self._failing_since = None
        return not any(outbox.journal.held for outbox in self._outboxes)

    def _send(self, outbox: Outbox) -> None:
        try:
            self._delivery.send(outbox, lambda: not self._stopping)
        except Gone:
            outbox.gone = True
            folder = outbox.journal.folder or "memory"
            say(f"tracking: run {outbox.run_id} was deleted in the store. What it still records stays in {folder}.")

    def _failed(self, error: Exception) -> None:
        told, self.failure = self.failure is not None, reason(error)
        self._failing_since = self._failing_since or time.monotonic()
        for outbox in self._outboxes:
            outbox.journal.sync()
        if not told:
            say(
                f"tracking: the store does not take what it is sent ({self.failure}). The run goes on; what it records "
                "is kept, and sent when the store takes it."
            )
