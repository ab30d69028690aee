"""Address lists count their users and sync as the kernel's do."""

from hypothesis import given
from hypothesis import strategies as st

from ibbond.netdev.groups import AddressList

A, B = b"\x01" * 6, b"\x03" * 6


def filled(*addresses: bytes) -> AddressList:
    made = AddressList()
    for address in addresses:
        made.add(address)
    return made


def test_an_address_leaves_with_its_last_user() -> None:
    made = filled(A, A)
    assert not made.remove(A)
    assert made.remove(A)
    assert not made.remove(A)
    assert A not in made


def test_sync_copies_and_unsync_takes_back_without_touching_the_targets_own_users() -> None:
    bond, member = filled(A, B), filled(A)
    bond.sync(member)
    assert list(member) == [A, B]
    assert member.users(A) == 2
    bond.unsync(member)
    assert list(member) == [A]
    assert member.users(A) == 1
    assert bond.users(A) == 1


def test_sync_twice_is_sync_once() -> None:
    bond, member = filled(A), AddressList()
    bond.sync(member)
    bond.sync(member)
    assert member.users(A) == 1


def test_what_the_bond_no_longer_wants_leaves_the_member_at_the_next_sync() -> None:
    bond, member = filled(A, B), AddressList()
    bond.sync(member)
    bond.remove(A)
    assert A in member
    bond.sync(member)
    assert list(member) == [B]
    assert list(bond) == [B]


def test_a_single_sync_goes_to_one_target_only() -> None:
    bond, first, second = filled(A), AddressList(), AddressList()
    bond.sync(first)
    bond.sync(second)
    assert A not in second  # the kernel's sync_cnt: it is out with the first one
    bond.unsync(first)
    bond.sync(second)
    assert A in second


def test_multiple_sync_goes_to_all_targets() -> None:
    bond, first, second = filled(A), AddressList(), AddressList()
    bond.sync_multiple(first)
    bond.sync_multiple(second)
    assert A in first
    assert A in second
    bond.unsync(first)
    bond.unsync(second)
    assert bond.users(A) == 1
    assert not len(first)
    assert not len(second)


@given(st.lists(st.tuples(st.sampled_from("+-s"), st.sampled_from([A, B]))), st.lists(st.sampled_from([A, B])))
def test_after_a_sync_both_agree_and_after_an_unsync_nothing_is_left(
    steps: list[tuple[str, bytes]], own: list[bytes]
) -> None:
    bond, member = AddressList(), filled(*own)
    wanted: dict[bytes, int] = {}
    for verb, address in steps:
        if verb == "+":
            bond.add(address)
            wanted[address] = wanted.get(address, 0) + 1
        elif verb == "-" and wanted.get(address):
            bond.remove(address)
            wanted[address] -= 1
        else:
            bond.sync(member)
    bond.sync(member)
    assert {address for address, users in wanted.items() if users} <= set(member)
    assert set(member) == {address for address, users in wanted.items() if users} | set(own)
    bond.unsync(member)
    assert set(member) == set(own)
    assert all(member.users(address) == own.count(address) for address in own)
    assert all(bond.users(address) == users for address, users in wanted.items())
