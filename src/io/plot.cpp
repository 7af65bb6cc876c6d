#include "io/plot.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <string_view>

#include "io/plot_axis.h"

namespace tern::io {
namespace {

// pixels
constexpr double left = 78, top = 46, inner_width = 560, inner_height = 360;
constexpr double right = left + inner_width, bottom = top + inner_height;
constexpr double margin = 14;  // between the frame and the outermost points
constexpr double legend_left = right + 18, legend_row = 20, letter_width = 6.7;

/// Okabe and Ito's colours, which remain distinct for colour-blind readers.
constexpr std::array<std::string_view, 7> colors{"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                 "#e69f00", "#56b4e9", "#000000"};
constexpr std::array<std::string_view, 4> dashes{"", "7 3", "2 3", "9 3 2 3"};

std::string pixel_text(double value) {
  std::array<char, 64> text{};
  const auto end = std::to_chars(text.begin(), text.end(), value, std::chars_format::fixed, 1).ptr;
  return {text.begin(), end};
}

/// XML 1.0 has no other control characters than white space.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else
      out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out;
}

std::size_t letters(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string line_text(double x1, double y1, double x2, double y2, std::string_view attributes) {
  return "<line x1=\"" + pixel_text(x1) + "\" y1=\"" + pixel_text(y1) + "\" x2=\"" + pixel_text(x2) +
         "\" y2=\"" + pixel_text(y2) + "\" " + std::string(attributes) + "/>\n";
}

std::string label_text(double x, double y, std::string_view attributes, std::string_view text) {
  return "<text x=\"" + pixel_text(x) + "\" y=\"" + pixel_text(y) + "\" " + std::string(attributes) + ">" +
         escaped(text) + "</text>\n";
}

/// How a series looks: no two of the first 28 alike, neighbours also without colours.
struct Look {
  std::size_t index;
  std::string stroke() const {
    const std::string_view dash = dashes[index % dashes.size()];
    return "stroke=\"" + std::string(colors[index % colors.size()]) + "\" stroke-width=\"1.8\"" +
           (dash.empty() ? "" : " stroke-dasharray=\"" + std::string(dash) + "\"");
  }
  std::string mark(double x, double y) const {
    const std::string fill = " fill=\"" + std::string(colors[index % colors.size()]) + "\"/>\n";
    const auto at = [&](double dx, double dy) { return pixel_text(x + dx) + "," + pixel_text(y + dy) + " "; };
    switch (index % 4) {
      case 0:
        return "<circle cx=\"" + pixel_text(x) + "\" cy=\"" + pixel_text(y) + "\" r=\"3.2\"" + fill;
      case 1:
        return "<polygon points=\"" + at(-3, -3) + at(3, -3) + at(3, 3) + at(-3, 3) + "\"" + fill;
      case 2:
        return "<polygon points=\"" + at(0, -4.2) + at(4, 3) + at(-4, 3) + "\"" + fill;
      default:
        return "<polygon points=\"" + at(0, -4.4) + at(4.4, 0) + at(0, 4.4) + at(-4.4, 0) + "\"" + fill;
    }
  }
};

class Chart {
 public:
  explicit Chart(const Plot& plot) : plot_(plot) {
    x_.is_log = plot.log_x;
    y_.is_log = plot.log_y;
    std::vector<double> x_values, y_values;
    for (const Series& series : plot.series)
      for (const auto& point : series.points) {
        if (!has_place_for(point)) continue;
        x_values.push_back(point.first);
        y_values.push_back(point.second);
      }
    x_ = make_axis(plot.log_x, x_values);
    y_ = make_axis(plot.log_y, y_values);
  }

  std::string text() const {
    std::string out = head() + x_marks() + y_marks() + titles();
    for (std::size_t i = 0; i < plot_.series.size(); ++i) out += line(i) + legend_entry(i);
    return out + "</svg>\n";
  }

 private:
  using Point = std::pair<double, double>;

  bool has_place_for(const Point& point) const {
    return x_.has_place_for(point.first) && y_.has_place_for(point.second);
  }
  double x_pixel(double value) const { return left + margin + x_.place(value) * (inner_width - 2 * margin); }
  double y_pixel(double value) const { return bottom - margin - y_.place(value) * (inner_height - 2 * margin); }

  std::string head() const {
    std::size_t longest = 0;
    for (const Series& series : plot_.series) longest = std::max(longest, letters(series.name));
    const double legend_width = 40 + letter_width * static_cast<double>(longest);
    const double width = legend_left + (plot_.series.empty() ? 0 : legend_width);
    const double height =
        std::max(bottom + 62, top + 20 + legend_row * static_cast<double>(plot_.series.size()));
    const std::string size = pixel_text(width), rise = pixel_text(height);
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"" + size + "\" height=\"" + rise +
           "\" viewBox=\"0 0 " + size + " " + rise +
           "\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\">\n<title>" +
           escaped(plot_.title) + "</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n";
  }

  std::string x_marks() const {
    std::string out;
    for (const double tick : x_.ticks) {
      const double x = x_pixel(tick);
      out += line_text(x, top, x, bottom, "stroke=\"#e2e2e2\"") +
             line_text(x, bottom, x, bottom + 5, "stroke=\"#222\"") +
             label_text(x, bottom + 19, "text-anchor=\"middle\"", tick_text(tick));
    }
    return out;
  }

  std::string y_marks() const {
    std::string out;
    for (const double tick : y_.ticks) {
      const double y = y_pixel(tick);
      out += line_text(left, y, right, y, "stroke=\"#e2e2e2\"") +
             line_text(left - 5, y, left, y, "stroke=\"#222\"") +
             label_text(left - 9, y + 4, "text-anchor=\"end\"", tick_text(tick));
    }
    return out;
  }

  std::string titles() const {
    const double middle = (top + bottom) / 2;
    const std::string turned = "text-anchor=\"middle\" transform=\"rotate(-90 18 " + pixel_text(middle) + ")\"";
    return "<rect x=\"" + pixel_text(left) + "\" y=\"" + pixel_text(top) + "\" width=\"" +
           pixel_text(inner_width) + "\" height=\"" + pixel_text(inner_height) +
           "\" fill=\"none\" stroke=\"#222\"/>\n" +
           label_text((left + right) / 2, top - 18, "text-anchor=\"middle\" font-size=\"15\"", plot_.title) +
           label_text((left + right) / 2, bottom + 44, "text-anchor=\"middle\" font-size=\"13\"",
                      plot_.x_label) +
           label_text(18, middle, turned + " font-size=\"13\"", plot_.y_label);
  }

  std::string line(std::size_t index) const {
    const Look look{index};
    std::string marks, strokes, run;
    const auto finish_run = [&] {
      if (!run.empty()) strokes += "<polyline fill=\"none\" " + look.stroke() + " points=\"" + run + "\"/>\n";
      run.clear();
    };
    for (const Point& point : plot_.series[index].points) {
      if (!has_place_for(point)) {
        finish_run();
        continue;
      }
      const double x = x_pixel(point.first), y = y_pixel(point.second);
      run += pixel_text(x) + "," + pixel_text(y) + " ";
      marks += look.mark(x, y);
    }
    finish_run();
    return "<g>\n" + strokes + marks + "</g>\n";
  }

  std::string legend_entry(std::size_t index) const {
    const double y = top + 10 + legend_row * static_cast<double>(index);
    const Look look{index};
    return line_text(legend_left, y, legend_left + 26, y, look.stroke()) + look.mark(legend_left + 13, y) +
           label_text(legend_left + 33, y + 4, "", plot_.series[index].name);
  }

  const Plot& plot_;
  Axis x_, y_;
};

}  // namespace

std::string svg(const Plot& plot) { return Chart(plot).text(); }

}  // namespace tern::io
