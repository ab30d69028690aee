"""Refusals keep their parts across processes, and a failed lab is a refusal for people."""

import errno
import pickle

import pytest

from ibbond.backend.control_socket import result_of
from ibbond.errors import Refused


def test_a_refusal_can_be_pickled() -> None:
    refusal = Refused("cannot do it", why="it is broken", fix="Mend it", code=errno.EBUSY)
    copy = pickle.loads(pickle.dumps(refusal))
    assert type(copy) is Refused
    assert str(copy) == str(refusal)
    assert (copy.what, copy.why, copy.fix, copy.code) == ("cannot do it", "it is broken", "Mend it", errno.EBUSY)


def test_a_request_on_which_the_lab_failed_is_refused() -> None:
    with pytest.raises(Refused, match="the lab could not carry out the request: it failed with KeyError"):
        result_of({"failed": "KeyError: 'x'"})
