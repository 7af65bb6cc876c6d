"""Planted faults for the checks of layers, style and kernel symbols: each must be reported."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import check_isa_symbols  # noqa: E402
import check_layers  # noqa: E402
import check_style  # noqa: E402


class Layers(unittest.TestCase):
    def found(self, path, *includes):
        text = "".join(f"#include {name}\n" for name in includes)
        return check_layers.violations_of(path, text)

    def test_order(self):
        allowed = ('"kernels/a.h"', '"tern/ops.h"', '"base/parallel.h"', "<vector>")
        self.assertEqual(self.found("src/ops/a.cpp", *allowed), [])
        self.assertIn("ops may not include", self.found("src/ops/a.cpp", '"tern/layers.h"')[0])
        self.assertIn("io may not include", self.found("src/io/a.cpp", '"tern/config.h"')[0])
        self.assertIn("core may not include", self.found("include/tern/tensor.h", '"tern/module.h"')[0])

    def test_kernels_see_base_only(self):
        self.assertEqual(self.found("src/kernels/cpu/a.cpp", '"tern/device.h"', '"kernels/view.h"'), [])
        refused = ('"tern/tensor.h"', '"tern/config.h"', '"io/json.h"')
        self.assertEqual(len(self.found("src/kernels/cpu/a.cpp", *refused)), 3)

    def test_neighbours_of_one_rank(self):
        self.assertIn("comm may not include", self.found("src/comm/a.cpp", '"data/loader.h"')[0])

    def test_unknown_places(self):
        self.assertIn("belongs to no layer", self.found("include/tern/new_header.h")[0])
        self.assertIn("belongs to no layer", self.found("src/ops/a.cpp", '"views.h"')[0])

    def test_outside_libraries(self):
        self.assertIn("config only", self.found("src/ops/a.cpp", "<yaml-cpp/yaml.h>")[0])
        self.assertIn("tests only", self.found("src/app/a.cpp", "<gtest/gtest.h>")[0])


class Style(unittest.TestCase):
    def found(self, text, path="src/ops/a.cpp"):
        return check_style.violations_of(path, text)

    def body(self, lines):
        return "namespace a {\nint f(int x) {\n" + "  x += 1;  // {\n" * (lines - 2) + "}\n}\n"

    def test_length_of_functions(self):
        self.assertEqual(self.found(self.body(60)), [])
        self.assertIn("src/ops/a.cpp:2: 61 lines", self.found(self.body(61))[0])
        self.assertEqual(self.found(self.body(100), "src/kernels/cpu/a.cpp"), [])
        self.assertEqual(len(self.found(self.body(101), "src/kernels/cpu/a.cpp")), 1)

    def test_length_of_methods_and_of_classes(self):
        start = "class A {\n public:\n  template <class T>\n  void f(T x) const {\n"
        method = start + "    g('{', \"}\");\n" * 60 + "  }\n};\n"
        self.assertIn("lines, at most 60", self.found(method)[0])
        self.assertEqual(self.found("struct A {\n" + "  int x;\n" * 100 + "};\n"), [])

    def test_length_of_lines_and_files(self):
        self.assertEqual(self.found("x" * 112 + "\n"), [])
        self.assertIn("113 columns", self.found("x" * 113 + "\n")[0])
        self.assertEqual(self.found("\n" * 350), [])
        self.assertIn("351 lines", self.found("\n" * 351)[0])

    def test_words_and_paths(self):
        for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"):
            self.assertIn("unfinished", self.found(f"// {word}: later\n")[0])
        self.assertEqual(self.found('auto name = "test-XXXXXX";\n'), [])
        for path in ("/ho" + "me/somebody", "/wo" + "rk/main"):
            self.assertIn("one machine", self.found(f"see {path}/x\n", "docs/a.md")[0])
        self.assertEqual(self.found("a/ho" + "me/x and https://a.b/wo" + "rk/x\n", "docs/a.md"), [])


class IsaSymbols(unittest.TestCase):
    def found(self, line):
        return check_isa_symbols.violations_of("a.o", line)

    def test_shared_symbols(self):
        self.assertEqual(self.found("0000000000000000 W void f<float, (tern::Isa)2>()"), [])
        self.assertEqual(self.found("0000000000000000 W _ZN4tern7kernels1fILNS_3IsaE1EEEvv"), [])
        self.assertEqual(len(self.found("0000000000000000 W _ZN4tern7kernels1fILi1EEEvv")), 1)
        self.assertEqual(self.found("0000000000000000 t std::vector<int>::size()"), [])
        self.assertEqual(self.found("0000000000000000 V DW.ref.__gxx_personality_v0"), [])
        self.assertIn("std::vector", self.found("0000000000000010 W std::vector<int>::size()")[0])
        self.assertIn("guard", self.found("0000000000000010 u guard variable for f()::x")[0])


if __name__ == "__main__":
    unittest.main()
