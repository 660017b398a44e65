"""YAML with positions: traps, limits, and the two tables of scalars."""

import pytest

from meshsim.errors import ConfigError
from meshsim.yamlfile import (
    DEPTH_MAX,
    FILE_BYTES_MAX,
    PROBLEMS_MAX,
    did_you_mean,
    field_path,
    parse_scalar,
    parse_yaml,
    read_text,
    read_yaml,
)


def problems(text, **options):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "x.yaml", **options)
    return caught.value.problems


def one_problem(text, **options):
    (problem,) = problems(text, **options)
    return problem


def value(text, **options):
    (document,) = parse_yaml(text, **options)
    return document.value


def test_positions_are_those_of_values_and_keys():
    (document,) = parse_yaml("a:\n  - b: 1\n    c: [x, z]\n")
    assert document.value == {"a": [{"b": 1, "c": ["x", "z"]}]}
    assert document.positions["a", 0, "b"] == (2, 8)
    assert document.positions["a", 0, "c", 1] == (3, 12)
    assert document.keys["a", 0, "c"] == (3, 5)


def test_a_problem_of_an_absent_value_stands_at_its_parent():
    (document,) = parse_yaml("a:\n  b: 1\n", "f.yaml")
    problem = document.problem("is required", ("a", "c"))
    assert (problem.file, problem.line, problem.column, problem.path) == ("f.yaml", 2, 3, "a.c")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no", "write false"),
        ("Yes", "write true"),
        ("on", "write true"),
        ("y", "write true"),
        ("010", "octal"),
        ("0x1F", "base 16"),
        ("0o17", "base 16"),
        ("12:30", "base 60"),
        ("1_000", "YAML 1.1"),
        (".inf", "finite"),
        (".nan", "finite"),
        ("1e999", "too large"),
        ("2024-01-31", "date"),
    ],
)
def test_a_trap_is_an_error_at_its_place(text, said):
    problem = one_problem(f"a: 1\nb: {text}\n")
    assert said in problem.message
    assert (problem.line, problem.column, problem.path, problem.found) == (2, 4, "b", text)


@pytest.mark.parametrize("text", ["no", "010", "12:30", "1_000", "2024-01-31", "1e999"])
def test_a_quoted_trap_is_text(text):
    assert value(f"a: '{text}'") == {"a": text}
    assert value(f"a: !!str {text}") == {"a": text}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("-3", -3),
        ("0", 0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("true", True),
        ("null", None),
        ("~", None),
        ("14ms", "14ms"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_a_plain_scalar_is_what_it_looks_like(text, expected):
    found = parse_scalar(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("no", "false or 'no' for text"),
        ("010", "10 or 8 or '010' for text"),
        ("-010", "-10 or -8 or '-010' for text"),
        ("089", "89 or '089' for text"),
        ("0x1F", "31 or '0x1F' for text"),
        ("0o10", "8 or '0o10' for text"),
        ("1_000", "1000 or '1_000' for text"),
        ("1_000.5", "1000.5 or '1_000.5' for text"),
        ("12:30", "a decimal number or '12:30' for text"),
        (".inf", "a decimal number or '.inf' for text"),
        ("0x" + "F" * 290, f"a decimal number or '0x{'F' * 290}' for text"),
        ("1e999", "a smaller one or '1e999' for text"),
    ],
)
def test_a_trap_names_what_to_write_instead(text, instead):
    message = one_problem(f"a: {text}\n").message
    assert message.rpartition("; write ")[2] == instead
    for written in instead.removesuffix(" for text").split(" or "):
        if not written.startswith("a "):
            value(f"a: {written}")


def test_every_trap_of_a_file_is_reported():
    lines = [problem.line for problem in problems("a: no\nb: 010\nc: 12:30\na: 2\nd: !Ref x\n")]
    assert lines == [1, 2, 3, 4, 5]


def test_a_duplicate_key_names_its_first_line():
    problem = one_problem("a: 1\nb: 2\na: 3\n")
    assert (problem.line, problem.path) == (3, "a")
    assert "line 1" in problem.message


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("a:\n\tb: 1\n", "a tab", 2),
        ("a: b: c\n", "not YAML", 1),
        ("a: 'x\n", "not YAML", 2),
        ("a: 1\n---\nb: 2\n", "2 documents", 3),
        ("*b\n", "names no anchor", 1),
        ("a: &a [*a]\n", "inside what it repeats", 1),
        ("? [1]\n: 2\n", "a key must be text", 1),
        ("", "empty", 0),
        ("# only a comment\n", "empty", 0),
        ("\x01", "not YAML", 0),
        ("\ud800", "not text", 0),
        ("a: 1\n<<: 3\n", "<< merges", 2),
    ],
)
def test_one_clear_error(text, said, line):
    problem = one_problem(text)
    assert said in problem.message
    assert problem.line == line


@pytest.mark.parametrize(
    "text",
    [
        "a: {{ .Values.replicas }}\n",
        "a: 1\n{{- if .Values.b }}\nb: 1\n{{- end }}\n",
        'a: "{{ .Values.replicas }}"\n',
        '{{ include "x.labels" . | indent 4 }}\n',
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_template_is_to_be_rendered_first(text, strict):
    problem = one_problem(text, strict_scalars=strict)
    assert "render it first" in problem.message
    assert problem.found.startswith("{{")
    assert problem.line == text[: text.index("{{")].count("\n") + 1


def test_braces_in_a_block_of_text_or_a_comment_are_no_template():
    text = "# {{ x }}\nalert: 'load is {{ $value }}'\nscript: |\n  {{ .Values.x }}\n"
    expected = {"alert": "load is {{ $value }}", "script": "{{ .Values.x }}\n"}
    assert value(text, strict_scalars=False) == expected


def test_an_alias_bomb_is_refused_before_it_unfolds():
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    problem = one_problem("\n".join(rows))
    assert "too many values" in problem.message
    assert "1,000,000" in problem.allowed


def test_aliases_and_merge_keys_within_the_limits_work():
    text = "a: &a {x: 1, y: 2}\nb: *a\nc:\n  <<: *a\n  y: 3\n"
    assert value(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"y": 3, "x": 1}}


def test_nesting_is_limited_also_by_aliases():
    assert value("[" * DEPTH_MAX + "]" * DEPTH_MAX)
    deeper = "[" * (DEPTH_MAX + 1)
    assert "nested too deeply" in one_problem(deeper).message
    half = "[" * 60 + "x" + "]" * 60
    aliased = f"a: &a {half}\nb: {'[' * 60}*a{']' * 60}\n"
    assert "nested too deeply" in one_problem(aliased).message


def test_problems_are_listed_up_to_a_limit():
    found = problems("\n".join(f"k{i}: no" for i in range(PROBLEMS_MAX + 7)))
    assert len(found) == PROBLEMS_MAX + 1
    assert "7 more" in found[-1].message


def test_manifests_are_read_as_kubectl_does():
    text = "a: on\non: 1\n80: x\nb: 010\nc: 12:30\nd: 0x1F\ne: 2024-01-31\n---\n---\nf: !Ref z\n"
    documents = parse_yaml(text, strict_scalars=False)
    assert [document.value for document in documents] == [
        {"a": True, "true": 1, "80": "x", "b": 8, "c": "12:30", "d": 31, "e": "2024-01-31"},
        {"f": {"!Ref": "z"}},
    ]
    assert documents[1].positions["f",] == (10, 4)
    assert parse_yaml("", strict_scalars=False) == []


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    (tmp_path / "bookinfo.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"file not found.*did you mean bookinfo\.yaml"):
        read_text(tmp_path / "bookinof.yaml")


def test_what_is_not_a_text_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is a directory"):
        read_text(tmp_path)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\x7fELF\0\0")
    with pytest.raises(ConfigError, match="binary"):
        read_text(binary)
    latin = tmp_path / "latin"
    latin.write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(ConfigError, match=r"not UTF-8.*0xe9 in line 2"):
        read_text(latin)
    with pytest.raises(ConfigError, match="file not found"):
        read_text(binary / "below")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_text("a\0b")


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    large = tmp_path / "large.yaml"
    with large.open("wb") as stream:
        stream.truncate(100_000_000)
    with pytest.raises(ConfigError, match="too large; allowed: at most 16 MB"):
        read_yaml(large)
    assert "too large" in one_problem("x" * (FILE_BYTES_MAX + 1)).message


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path)[0].value == {"a": 1}


def test_words_of_a_problem():
    assert field_path(("a", "b", 0, "c")) == "a.b[0].c"
    assert did_you_mean("Ratngs", ["reviews", "ratings"]) == "ratings"
    assert did_you_mean("zzz", ["reviews", "ratings"]) == ""
