#include "io/plot.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "io/plot_axis.h"

namespace tern::io {
namespace {

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

/// Whether tags are closed in order, attributes quoted, and every & begins an entity.
bool is_well_formed(const std::string& text) {
  std::vector<std::string> open;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '&') {
      const std::string rest = text.substr(at, 6);
      if (!rest.starts_with("&amp;") && !rest.starts_with("&lt;") && !rest.starts_with("&gt;") &&
          !rest.starts_with("&quot;"))
        return false;
    }
    if (text[at] != '<') continue;
    const std::size_t end = text.find('>', at);
    if (end == text.npos) return false;
    const std::string tag = text.substr(at + 1, end - at - 1);
    if (tag.find('<') != tag.npos || count_of(tag, "\"") % 2 != 0) return false;
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return false;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
    at = end;
  }
  return open.empty() && text.starts_with("<svg ") && text.ends_with("</svg>\n");
}

Plot example() {
  Plot plot{"Time by length", "length", "milliseconds", true, true, {}};
  plot.series.push_back({"softmax", {{512, 0.3}, {1024, 1.1}, {4096, 18}}});
  plot.series.push_back({"yoso", {{512, 0.4}, {1024, 0.8}, {4096, 3.1}}});
  return plot;
}

TEST(Plot, shows_every_series_once) {
  const std::string text = svg(example());
  EXPECT_TRUE(is_well_formed(text)) << text;
  EXPECT_EQ(count_of(text, "<polyline"), 2U);
  EXPECT_EQ(count_of(text, "<circle"), 3U + 1) << "three points and the legend";
  for (const char* label : {">Time by length<", ">length<", ">milliseconds<", ">softmax<", ">yoso<", ">512<",
                            ">1024<", ">2048<", ">4096<", ">0.5<", ">1<", ">10<", ">20<"})
    EXPECT_NE(text.find(label), text.npos) << label;
  EXPECT_EQ(svg(example()), text);
}

TEST(Plot, lines_differ) {
  Plot plot = example();
  plot.series.resize(1);
  for (int i = 0; i < 11; ++i) plot.series.push_back({"more", {{1, 1}, {2, 2}}});
  const std::string text = svg(plot);
  std::vector<std::string> strokes;
  for (std::size_t at = text.find("<polyline"); at != text.npos; at = text.find("<polyline", at + 1)) {
    const std::size_t start = text.find("stroke=", at);
    strokes.push_back(text.substr(start, text.find(" points", start) - start));
  }
  ASSERT_EQ(strokes.size(), 12U);
  std::sort(strokes.begin(), strokes.end());
  EXPECT_EQ(std::unique(strokes.begin(), strokes.end()), strokes.end());
}

TEST(Plot, escapes_names) {
  Plot plot = example();
  plot.title = "a < b & \"c\" > d\n";
  plot.series[0].name = "</svg><script>";
  const std::string text = svg(plot);
  EXPECT_TRUE(is_well_formed(text)) << text;
  EXPECT_NE(text.find("a &lt; b &amp; &quot;c&quot; &gt; d <"), text.npos);
  EXPECT_EQ(text.find("<script"), text.npos);
}

TEST(Plot, points_without_a_place_interrupt_their_line) {
  Plot plot = example();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  plot.series[0].points = {{1, 1}, {2, 1}, {4, std::nan("")}, {8, 1}, {16, infinity}, {32, 0}, {-1, 1}};
  plot.series[1].points = {};
  const std::string text = svg(plot);
  EXPECT_TRUE(is_well_formed(text));
  EXPECT_EQ(count_of(text, "<polyline"), 2U);
  EXPECT_EQ(text.find("nan"), text.npos);
  EXPECT_EQ(text.find("inf"), text.npos);
  EXPECT_TRUE(is_well_formed(svg({"empty", "x", "y", true, false, {}})));
}

TEST(PlotAxis, marks_powers_of_two_decades_or_even_steps) {
  struct Case {
    bool is_log;
    std::vector<double> values, ticks;
  };
  const std::vector<Case> cases{
      {true, {4, 1, 8}, {1, 2, 4, 8}},
      {true, {64}, {32, 64, 128}},
      {true, {1, std::ldexp(1, 20)}, {1, 8, 64, 512, 4096, 32768, 262144}},
      {true, {0.03, 0.9}, {0.02, 0.05, 0.1, 0.2, 0.5, 1}},
      {true, {0.003, 900}, {0.01, 0.1, 1, 10, 100, 1000}},
      {true, {3}, {2, 5}},
      {true, {10}, {5, 10, 20}},
      {false, {0.07, 0.42}, {0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45}},
      {false, {-3, 12}, {-4, -2, 0, 2, 4, 6, 8, 10, 12}},
      {false, {0}, {0, 0.2, 0.4, 0.6, 0.8, 1}},
      {false, {}, {0, 0.2, 0.4, 0.6, 0.8, 1}},
  };
  for (const Case& c : cases) {
    const Axis axis = make_axis(c.is_log, c.values);
    std::string expected, actual;
    for (const double tick : c.ticks) expected += tick_text(tick) + " ";
    for (const double tick : axis.ticks) actual += tick_text(tick) + " ";
    EXPECT_EQ(actual, expected);
    for (const double value : c.values) {
      EXPECT_GE(axis.place(value), 0);
      EXPECT_LE(axis.place(value), 1);
    }
  }
}

TEST(PlotAxis, places_by_ratio_on_logarithmic_axes) {
  const Axis log = make_axis(true, std::vector<double>{1, 16}),
             even = make_axis(false, std::vector<double>{0, 1});
  EXPECT_DOUBLE_EQ(log.place(4), 0.5);
  EXPECT_DOUBLE_EQ(even.place(0.25), 0.25);
  EXPECT_FALSE(log.has_place_for(0));
  EXPECT_TRUE(even.has_place_for(-1));
  EXPECT_FALSE(even.has_place_for(std::nan("")));
}

TEST(PlotAxis, no_range_of_values_is_too_narrow_or_too_wide) {
  constexpr double wide = 1e100, narrow = 1e-100;
  const std::vector<std::vector<double>> cases{
      {-wide, wide}, {-wide, -wide}, {wide}, {1e-320, 1e-310}, {-1e18, -1e18 + 256}, {-5, -5}, {narrow, wide}};
  for (const std::vector<double>& values : cases)
    for (const bool is_log : {false, true}) {
      if (is_log && values.front() < narrow) continue;
      const Axis axis = make_axis(is_log, values);
      EXPECT_LT(axis.low, axis.high);
      EXPECT_GE(axis.ticks.size(), 2u);
      EXPECT_LE(axis.ticks.size(), 12u);
      for (const double value : values) EXPECT_TRUE(axis.place(value) >= 0 && axis.place(value) <= 1) << value;
    }
  const Axis log{true, 1, 10, {}}, even{false, 0, 1, {}};
  EXPECT_FALSE(even.has_place_for(-1e101));
  EXPECT_FALSE(log.has_place_for(1e-320));
}

}  // namespace
}  // namespace tern::io
