//! Every error of the reader of Python literals.

use super::{check_damage, read_python};

/// What the Python cases damage.
pub const PYTHON: &str = "\
from genotypes import Genotype
TINY = Genotype(
    normal=[('sep_conv_3x3', 1), ('skip_connect', 0)],
    normal_concat=range(2, 3),
    reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1),
            ('skip_connect', 2), ('sep_conv_3x3', 2)],
    reduce_concat=[2, 3])
";

#[test]
fn every_python_error_tells_line_column_item_and_fix() {
    let check = |from, to, message: &str| check_damage(PYTHON, read_python, (from, to), message);

    // The literal.
    check(
        "TINY = Genotype",
        "TINY = Phenotype",
        "x.py:1:1: there is no genotype here; write `NAME = Genotype(normal=[...], \
         normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))`",
    );
    check(
        "('skip_connect', 0)",
        "('skip_connect, 0)",
        "x.py:3:35: the string that starts here does not end; close it with the quote it \
         starts with",
    );
    check(
        "    normal_concat=range(2, 3),\n",
        "",
        "x.py:2:8: the key `normal_concat` is missing; add `normal_concat=range(2, 6)`",
    );
    check(
        "reduce_concat",
        "reduced_concat",
        "x.py:7:5: unknown key `reduced_concat` (did you mean `reduce_concat`?); the keys here \
         are normal, normal_concat, reduce, reduce_concat",
    );
    check("reduce_concat", "normal_concat", "x.py:7:5: the key `normal_concat` is given twice; keep one of the two");
    check("reduce_concat=", "", "x.py:7:5: expected a keyword, e.g. `normal=`, found `[`");
    check("range(2, 3),", "range(2, 3)", "x.py:5:5: expected `,` or the closing bracket, found `reduce`");
    check("[2, 3])", "[2, 3]", "x.py:8:1: expected `,` or the closing bracket, found the end of the file");

    // Edges.
    check(
        "reduce=[('max_pool_3x3', 0)",
        "reduce=[('maxpool_3x3', 0)",
        "x.py:5:14: reduce[0][0]: unknown primitive `maxpool_3x3` (did you mean \
         `max_pool_3x3`?); PRIMITIVES",
    );
    check(
        "('sep_conv_3x3', 2)",
        "('none', 2)",
        "x.py:6:35: reduce[3][0]: `none` means that there is no edge, so a genotype cannot \
         hold it; PRIMITIVES",
    );
    check(
        "('skip_connect', 2)",
        "('skip_connect', 3)",
        "x.py:6:30: reduce[2][1]: state 3 is out of range: node 1 is state 3 and may read \
         states 0..=2",
    );
    check("('skip_connect', 2)", "('skip_connect', -1)", "x.py:6:30: reduce[2][1]: expected STATE, found `-`");
    check(
        "('skip_connect', 2)",
        "('skip_connect', 2.0)",
        "x.py:6:30: reduce[2][1]: expected STATE, found the number 2.0",
    );
    check(
        "('skip_connect', 2)",
        "(skip_connect, 2)",
        "x.py:6:14: reduce[2]: expected the name of a primitive in quotes, found `skip_connect`",
    );
    check(
        "('skip_connect', 2)",
        "('skip_connect')",
        "x.py:6:28: reduce[2]: expected `,` and the state that the edge reads, found `)`",
    );
    check(
        "('skip_connect', 2)",
        "('skip_connect', 2, 1)",
        "x.py:6:33: reduce[2]: expected the end of the edge: it has a primitive and a state, \
         found the number 1",
    );
    check(
        "('skip_connect', 2),",
        "('skip_connect', 2)",
        "x.py:6:33: reduce: expected `,` or the closing bracket, found `(`",
    );
    check(
        "('skip_connect', 2), ",
        "",
        "x.py:5:12: reduce: the list has 3 edges, an odd number; a node has exactly two",
    );
    check(
        "[('sep_conv_3x3', 1), ('skip_connect', 0)]",
        "[]",
        "x.py:3:12: normal: the cell has no nodes; give it at least one node with two edges",
    );
    check(
        "[('sep_conv_3x3', 1), ('skip_connect', 0)]",
        "NORMAL",
        "x.py:3:12: normal: expected a list of edges, e.g. [('sep_conv_3x3', 0), ...], found \
         `NORMAL`",
    );

    // States.
    check(
        "[2, 3]",
        "[2, 4]",
        "x.py:7:23: reduce_concat[1]: state 4 is out of range: the cell's nodes are the states \
         2..=3, and 0 and 1 are its inputs",
    );
    check("[2, 3]", "[2, 2]", "x.py:7:23: reduce_concat[1]: state 2 is listed twice; keep one of the two");
    check(
        "[2, 3]",
        "[]",
        "x.py:7:19: reduce_concat: the cell's output is empty; list the states to concatenate, \
         e.g. [2, 3]",
    );
    check(
        "range(2, 3)",
        "range(3, 2)",
        "x.py:4:19: normal_concat: the cell's output is empty; list the states to concatenate, \
         e.g. [2]",
    );
    check(
        "range(2, 3)",
        "range(2, 3, 1)",
        "x.py:4:31: normal_concat: expected `)`: a range of states has no step, found the \
         number 1",
    );
    check(
        "range(2, 3)",
        "{2}",
        "x.py:4:19: normal_concat: expected a list of states, e.g. [2, 3, 4, 5] or range(2, \
         6), found `{`",
    );
    for (range, index, bad) in [
        ("range(2, 4)", 1, 3),
        ("range(2, 18446744073709551615)", 1, 3),
        ("range(1, 3)", 0, 1),
        ("range(3)", 0, 0),
        ("range(7, 9)", 0, 7),
        ("range(18446744073709551614, 18446744073709551615)", 0, 18446744073709551614u64),
    ] {
        let message = format!(
            "x.py:4:19: normal_concat[{index}]: state {bad} is out of range: the cell's nodes are \
             the states 2..=2, and 0 and 1 are its inputs"
        );
        check("range(2, 3)", range, &message);
    }
}
