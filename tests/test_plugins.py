"""References to code: what is found, where worker processes find it again, and one line for all that goes wrong."""

import multiprocessing
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

from supernet import plugins
from tests.conftest import refused


def test_a_file_is_imported_from_the_end_of_the_path(own_file):
    path = own_file("my_own_numbers.py", "def seven():\n    return 7\n")
    plugin = plugins.resolve(f"{path}:seven")
    assert plugin() == 7
    assert sys.path[-1] == str(path.parent)
    before = list(sys.path)
    assert plugins.resolve(f"{path}:seven").module is plugin.module
    assert sys.path == before


def test_a_relative_path_is_taken(own_file, monkeypatch):
    path = own_file("my_relative.py", "def seven():\n    return 7\n")
    monkeypatch.chdir(path.parent)
    assert plugins.resolve("my_relative.py:seven")() == 7
    assert sys.path[-1] == str(path.parent)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_worker_processes_find_the_classes_again(own_file, method):
    path = own_file("my_pickled.py", "class Mine:\n    def __init__(self):\n        self.value = 7\n")
    mine = plugins.resolve(f"{path}:Mine")()
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert pool.submit(random.choice, [mine]).result(60).value == 7


def test_a_package_is_taken():
    assert plugins.resolve("collections.abc:Sequence").function.__name__ == "Sequence"
    assert plugins.resolve("collections:Counter.most_common").source == "collections:Counter.most_common"


def test_what_is_no_reference_is_looked_for_among_entry_points(installed):
    assert plugins.find("seven", "supernet.spaces") is None
    installed("numbers_of_mine", "def seven():\n    return 7\n", "[supernet.spaces]\nseven = numbers_of_mine:seven\n")
    assert plugins.find("seven", "supernet.spaces")() == 7
    assert plugins.find("seven", "supernet.data") is None
    assert plugins.names("supernet.spaces") == ["seven"]


def test_the_name_of_another_module_is_refused(own_file):
    for name in ("json.py", "supernet.py", "sys.py"):
        before = list(sys.path)
        path = own_file(name, "raise RuntimeError('never imported')")
        message = refused(plugins.resolve, f"{path}:f")
        assert f"{path}:f: the name {path.stem!r} already belongs to another module" in message
        assert f"rename {name}" in message
        assert sys.path == before


def test_the_same_name_in_two_folders_is_refused(own_file, tmp_path):
    first = own_file("my_twice.py", "def f(): pass")
    second = tmp_path / "my_twice.py"
    second.write_text("def f(): pass")
    plugins.resolve(f"{first}:f")
    assert str(first) in refused(plugins.resolve, f"{second}:f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = 1 / 0\n", r"ZeroDivisionError in line 2: division by zero"),
        ("x = 1\n\ndef f(:\n", r"SyntaxError in line 3: "),
        ("import no_such_module_anywhere", r"ModuleNotFoundError in line 1: No module named 'no_such_module_anywhere'"),
        ("raise SystemExit(3)", r"SystemExit in line 1: 3"),
        ("raise ValueError('one\\ntwo')", r"ValueError in line 1: one two"),
    ],
)
def test_a_file_that_fails_is_told_with_its_line(own_file, text, message):
    path = own_file("my_broken.py", text)
    before = list(sys.path)
    found = refused(plugins.resolve, f"{path}:f")
    assert found.startswith(f"{path}:f: importing {path} raised {message}")
    assert sys.path == before


def test_what_is_missing_is_named(own_file):
    path = own_file("my_things.py", "number = 7\n")
    for reference, message in (
        (f"{path.parent}/nothing.py:f", f"there is no file {path.parent}/nothing.py"),
        (f"{path}:g", f"{path}:g: {path} has no function 'g'"),
        (f"{path}:number", "number is of type int, expected a function"),
        (f"{path}:", "expected FILE.py:function or package.module:function"),
        (f"{path.with_suffix('.txt')}:f", "expected a Python file"),
        (f"{path.with_name('a.b.py')}:f", "there is no file"),
        ("no_such_package.module:f", "there is no module no_such_package.module; install it"),
        ("collections:nothing", "has no function 'nothing'"),
    ):
        assert message in refused(plugins.resolve, reference)
    dotted = own_file("a.b.py", "def f(): pass")
    assert "rename a.b.py" in refused(plugins.resolve, f"{dotted}:f")


def test_a_function_gets_what_it_takes(own_file):
    path = own_file(
        "my_functions.py",
        """
        def none(): return {}
        def one(channels): return {"channels": channels}
        def default(channels, depth=3): return {"channels": channels, "depth": depth}
        def all_(**images): return images
        def more(channels, depth): pass
        def positional(channels, /): pass
        """,
    )

    def offer(name):
        return plugins.resolve(f"{path}:{name}").offer(channels=3, classes=10)

    assert offer("none") == {}
    assert offer("one") == {"channels": 3}
    assert offer("default") == {"channels": 3, "depth": 3}
    assert offer("all_") == {"channels": 3, "classes": 10}
    assert "needs an argument 'depth': it is called with the keyword arguments channels, classes" in refused(
        offer, "more"
    )
    assert "needs an argument 'channels'" in refused(offer, "positional")


def test_a_function_that_raises_is_told_with_its_line(own_file):
    path = own_file(
        "my_raising.py",
        """\
        from supernet.errors import UserError

        def fails():
            return [].pop()

        def refuses():
            raise UserError("expected colour images")
        """,
    )
    assert refused(plugins.resolve(f"{path}:fails")) == f"{path}:fails raised IndexError in line 4: pop from empty list"
    assert refused(plugins.resolve(f"{path}:refuses")) == f"{path}:refuses: expected colour images"


def test_code_prints_beside_the_results_and_leaves_the_folder(own_file, capsys):
    path = own_file(
        "my_chatty.py",
        """        import os

        print("imported")
        os.chdir("/")

        def seven():
            print("called")
            os.chdir("/")
            return 7
        """,
    )
    before = os.getcwd()
    assert plugins.resolve(f"{path}:seven")() == 7
    assert os.getcwd() == before != "/"
    assert capsys.readouterr() == ("", "imported\ncalled\n")


def test_code_is_the_same_wherever_its_file_lies():
    assert plugins.require_same("/old/place/mine.py:images", "mine.py:images", "the run") == "mine.py:images"
    for named in ("mine.py:other", "other.py:images", "package.mine:images"):
        assert f"not from {named}" in refused(plugins.require_same, "/old/place/mine.py:images", named, "the run")
    assert "was not named" in refused(plugins.require_same, "mine.py:images", None, "the run")
