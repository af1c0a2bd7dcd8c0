#include <unroll/graph/error.h>
#include <unroll/graph/generator.h>
#include <unroll/io/csv.h>

#include <cmath>

#include "../catch.h"
#include "files.h"

using namespace unroll;

namespace {

using Names = std::vector<std::string>;
using Values = std::vector<double>;

std::string refusal(std::string_view text, const CsvOptions& options = {}) {
  return message_of<DataError>([&] { parse_csv(text, options); });
}

}  // namespace

TEST_CASE("read_csv keeps numbers and skips dates", "[io]") {
  const TemporaryDirectory directory;
  const auto path = write_plainly(directory / "a.csv",
                                  "\xEF\xBB\xBF"
                                  "date,x,y\n2016-07-01 00:00:00,1.5,-2e3\n"
                                  "2016-07-01 01:00:00, +3 ,.5");
  const Table table = read_csv(path);
  CHECK(table.columns == Names{"x", "y"});
  CHECK(table.skipped == Names{"date"});
  CHECK(table.rows() == 2);
  CHECK(table.column("x") == Values{1.5, 3});
  CHECK(table.column("y") == Values{-2000, 0.5});
  CHECK_THROWS_AS(table.column("date"), Error);
  CHECK_THROWS_AS(read_csv(directory / "none.csv"), DataError);
}

TEST_CASE("read_csv finds separators and line ends", "[io]") {
  CHECK(parse_csv("a;b\n1;2\n").column("b") == Values{2});
  CHECK(parse_csv("a\tb\r\n1\t2\r\n\r\n").column("b") == Values{2});
  CHECK(parse_csv("a\r1\r2\r").column("a") == Values{1, 2});
  CHECK(parse_csv("a|b\n1|2\n", {.separator = '|'}).column("b") == Values{2});
  CHECK(parse_csv("\"a;b;c\",d\n1,2\n").columns == Names{"a;b;c", "d"});
  CHECK(parse_csv("1,2\n3,4\n", {.header = false}).column("1") == Values{2, 4});
  CHECK(parse_csv("a\n1").column("a") == Values{1});
}

TEST_CASE("read_csv reads quoted fields", "[io]") {
  const Table table =
      parse_csv("\"a \"\"x\"\", b\",\"c\nd\"\r\n\"1\",text\r\n\"2\",\"3\n\"\"\"\n4,x\n");
  CHECK(table.columns == Names{"a \"x\", b"});
  CHECK(table.skipped == Names{"c\nd"});
  CHECK(table.values[0] == Values{1, 2, 4});
  CHECK(has(refusal("a,b\n1,\"2\n3,4\n"), "line 2: a quoted field does not end"));
  CHECK(has(refusal("a,b\n1,\"2\"3\n"), "line 2: '3' after a quoted field"));
}

TEST_CASE("rows with a name that the header lacks", "[io]") {
  const Table table = parse_csv("\"date\",\"t\"\n\"1\",\"noon\",23.5\n\"2\",\"night\",20\n");
  CHECK(table.columns == Names{"t"});
  CHECK(table.skipped == Names{"", "date"});
  CHECK(table.column("t") == Values{23.5, 20});
  CHECK(parse_csv(",t\n0,5\n1,6\n").columns == Names{"t"});
  CHECK(has(refusal("a,b\n1,2,\n3,4,\n"), "line 2: 3 fields where 2"));
  CHECK(has(refusal("a,b\n1,2\n1,2,3\n"), "line 3: 3 fields where 2"));
  CHECK(has(refusal("a,b\nx,1,2\n1,2\n"), "line 3: 2 fields where 3"));
}

TEST_CASE("read_csv names the line and the column of what is wrong", "[io]") {
  CHECK(has(refusal("a,b\n1,2\n3,x\n"), "line 3: 'x' in column 'b'"));
  CHECK(has(refusal("a,b\n1,2\n3,\n"), "line 3: '' in column 'b'"));
  CHECK(has(refusal("a,b\n1,nan\n3,4\n"), "line 2: 'nan' in column 'b'"));
  CHECK(has(refusal("a,b\n1,nan\n"), "line 2: 'nan'"));
  CHECK(has(refusal("a,b\n1,2\n3,-inf\n"), "line 3: '-inf' in column 'b'"));
  CHECK(has(refusal("a,b\n1,1e999\n"), "'1e999'"));
  CHECK(has(refusal("a,b\n\"x\ny\",1\n2,z\n"), "line 2: 'x\ny' in column 'a'"));
  CHECK(has(refusal("a,b\n1,2\n\n3,4\n"), "line 3: 1 fields where 2"));
  CHECK(has(refusal("a,a\n1,2\n"), "two columns are named 'a'"));
  CHECK(has(refusal("1,2\n3,4\n"), "numbers, not names"));
  CHECK(has(refusal("a,b\n"), "no column with numbers"));
  CHECK(has(refusal("a\nx\n"), "no column with numbers"));
  CHECK(has(refusal(""), "no rows"));
  CHECK(has(refusal("\n\n"), "no rows"));
  CHECK(has(refusal("a,b\n1,2\n", {.columns = {"c"}}), "no numeric column 'c'"));
  // A column that is not asked for may be as it likes.
  CHECK(parse_csv("a,b\n1,2\n3,x\n", {.columns = {"a"}}).column("a") == Values{1, 3});
}

TEST_CASE("mutated tables are read or refused", "[io]") {
  const std::string good = "date;a;\"b\"\r\n2016;1.5;\"2\"\r\n2017;-3e2;4\n2018;5;\"6\"\n";
  Generator generator(3);
  for (int i = 0; i < 2000; ++i) {
    std::string text = good;
    for (int c = 0; c < 3; ++c)
      text[static_cast<std::size_t>(generator.below(static_cast<std::int64_t>(text.size())))] =
          static_cast<char>(generator.below(4) == 0 ? generator.below(256)
                                                    : "\";,\n\r\tx1.-"[generator.below(10)]);
    try {
      for (const auto& values : parse_csv(text).values)
        for (double value : values) REQUIRE(std::isfinite(value));
    } catch (const DataError&) {
    }
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    try {
      parse_csv(std::string_view(good).substr(0, size));
    } catch (const DataError&) {
    }
  }
}

TEST_CASE("a table becomes a tensor", "[io]") {
  const Table table = parse_csv("a,b,c\n1,2,3\n4,5,6\n");
  const Tensor all = table.tensor();
  CHECK(all.shape() == Shape{2, 3});
  CHECK(all.data<float>()[4] == 5);
  const Tensor some = table.tensor({"c", "a"}, DType::f64);
  CHECK(some.shape() == Shape{2, 2});
  CHECK(some.data<double>()[0] == 3);
  CHECK(some.data<double>()[3] == 4);
  CHECK(has(message_of<Error>([&] { table.tensor({"x"}); }), "There are: a, b, c"));
  CHECK_THROWS_AS(table.tensor({}, DType::i64), Error);
}

TEST_CASE("standardize uses the first rows alone", "[io]") {
  const Tensor x = Tensor::from({1.0f, 7.0f, 3.0f, 7.0f, 100.0f, 8.0f}, {3, 2});
  const auto [scaled, scaler] = standardize(x, 2);
  CHECK(scaler.mean == Values{2, 7});
  CHECK(scaler.deviation == Values{1, 1});
  CHECK(scaled.data<float>()[0] == -1);
  CHECK(scaled.data<float>()[4] == 98);
  CHECK(scaled.data<float>()[5] == 1);
  const Tensor back = scaler.undo(scaled);
  for (std::size_t i = 0; i < 6; ++i) CHECK(back.data<float>()[i] == x.data<float>()[i]);
  CHECK_THROWS_AS(standardize(x, 0), ShapeError);
  CHECK_THROWS_AS(standardize(x, 4), ShapeError);
  CHECK_THROWS_AS(scaler.apply(Tensor::zeros({2, 3})), ShapeError);
  CHECK_THROWS_AS(standardize(Tensor::zeros({3}), 1), ShapeError);
}

TEST_CASE("real tables", "[io]") {
  const auto check = [](const char* name, std::int64_t rows, const Names& columns,
                        const Names& skipped) {
    const auto path = external_data(name);
    if (path.empty()) {
      WARN("skipped: " << name << " is not in $UNROLL_DATA");
      return;
    }
    INFO(name);
    const Table table = read_csv(path);
    CHECK(table.rows() == rows);
    CHECK(table.columns == columns);
    CHECK(table.skipped == skipped);
  };
  check("etth1/ETTh1.csv", 17'420, {"HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"},
        {"date"});
  check("occupancy/datatraining.txt", 8143,
        {"Temperature", "Humidity", "Light", "CO2", "HumidityRatio", "Occupancy"}, {"", "date"});
  check("nab/nyc_taxi.csv", 10'320, {"value"}, {"timestamp"});
  check("sunspots/sunspots_yearly.csv", 309, {"YEAR", "SUNACTIVITY"}, {});
}
