// Lines of what happens in a second, and the histogram.

const CHART_SECONDS = 180;
const CHART_HEIGHT = 100;

// The smallest of 1, 2, 5, 10, 20 … that is not below `value`; for bytes in their unit.
function niceTop(value, format) {
  const unit = format === bytes ? 1024 ** Math.floor(Math.log(Math.max(value, 1)) / Math.log(1024)) : 1;
  const power = unit * 10 ** Math.floor(Math.log10(Math.max(value / unit, 1)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((top) => top >= value);
}

// Two lines over the last minutes. `names` are the rates to show, with their legends.
class Chart {
  constructor(title, names, format) {
    Object.assign(this, { title, names, format, points: [] });
    const size = { viewBox: `0 0 ${CHART_SECONDS} ${CHART_HEIGHT}`, preserveAspectRatio: "none" };
    this.lines = names.map((_, index) => svg("path", { class: index ? "second" : "first" }));
    const rules = svg("path", { class: "rule", d: `M0 0H${CHART_SECONDS}M0 ${CHART_HEIGHT}H${CHART_SECONDS}` });
    this.picture = svg("svg", { ...size, role: "img" }, rules, ...this.lines);
    this.values = names.map(() => element("b", {}, "–"));
    const legend = names.map(([, label], index) => {
      const sample = svg("path", { class: index ? "second" : "first", d: "M0 4H20" });
      return element("li", {}, svg("svg", { viewBox: "0 0 20 8", "aria-hidden": "true" }, sample), `${label} `, this.values[index]);
    });
    this.top = element("span");
    const axis = ["3 min ago", "now"].map((text) => element("span", {}, text));
    this.node = element("figure", {},
      element("figcaption", {}, title),
      element("ul", { class: "legend" }, ...legend),
      element("div", { class: "axis" }, this.top),
      this.picture,
      element("div", { class: "axis" }, ...axis));
  }

  // `rates` of the second that ended at `seconds`; `null`: they are not known.
  add(seconds, rates) {
    const values = rates && this.names.map(([name]) => rates[name]);
    this.points.push({ seconds, values });
    while (this.points[0].seconds < seconds - CHART_SECONDS) this.points.shift();
    this.draw(seconds);
  }

  clear() {
    this.points = [];
  }

  draw(now) {
    const known = this.points.filter((point) => point.values);
    const top = niceTop(Math.max(0, ...known.flatMap((point) => point.values)), this.format);
    setText(this.top, this.format(top));
    this.lines.forEach((line, index) => setAttribute(line, "d", this.path(index, now, top)));
    const latest = known.at(-1)?.values;
    this.values.forEach((node, index) => setText(node, latest ? this.format(latest[index]) : "–"));
    const words = this.names.map(([, label], index) => `${label} ${latest ? this.format(latest[index]) : "unknown"}`);
    setAttribute(this.picture, "aria-label", `${this.title}: ${words.join(", ")}; at most ${this.format(top)}`);
  }

  // Where nothing is known, the line has a gap.
  path(index, now, top) {
    let last = null;
    return this.points.map(({ seconds, values }) => {
      if (!values) {
        last = null;
        return "";
      }
      const x = CHART_SECONDS - (now - seconds);
      const y = CHART_HEIGHT * (1 - values[index] / top);
      const step = last !== null && seconds - last < 4 ? "L" : "M";
      last = seconds;
      return `${step}${x.toFixed(1)} ${y.toFixed(1)}`;
    }).join("");
  }
}

// As a few words, for buckets know no more: "about 2.5 s", or "over 120 s". Where all are in one
// bucket their mean is the best guess, and exact for a single one; otherwise they are taken to
// be spread evenly over a bucket.
function within(histogram, share) {
  const { counts, le_s, count: all, sum_s } = histogram;
  const wanted = share * all;
  let below = 0;
  const index = counts.findIndex((number) => (below += number) >= wanted);
  const number = counts[index];
  if (number === all) return wait(Math.round((1000 * sum_s) / all));
  if (le_s[index] === null) return `over ${bound(le_s.at(-2))}`;
  const from = index > 0 ? le_s[index - 1] : 0;
  const part = (wanted - (below - number)) / number;
  return `about ${wait(Math.round(1000 * (from + part * (le_s[index] - from))))}`;
}

// The buckets from the first to the last that has something, and one beside them.
function shownBuckets({ counts, le_s }) {
  const some = counts.flatMap((number, index) => (number > 0 ? [index] : []));
  const first = Math.max(0, some[0] - 1);
  const last = Math.min(counts.length - 1, Math.max(some.at(-1) + 1, first + 7));
  return counts.slice(first, last + 1).map((number, index) => ({ number, le: le_s[first + index] }));
}

function bucketColumn(item) {
  const number = element("div");
  const fill = element("div", { class: "fill" });
  const label = element("div", { class: "label" }, bound(item.le));
  const node = element("div", {}, element("div", { class: "plot" }, number, fill), label);
  node.update = ({ number: some, most }) => {
    setText(number, some > 0 ? count(some) : "");
    fill.style.setProperty("--share", String(some / most));
  };
  return node;
}
