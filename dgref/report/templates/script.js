const PAGE = 200;
const results = JSON.parse(document.getElementById("data").textContent);
const texts = results.map((row) =>
  [row.case, row.backend, row.label, row.reason, ...row.facts.map((fact) => fact[1])].join(" ").toLowerCase());
const list = document.getElementById("rows");
const filter = document.getElementById("filter");
const ran = document.getElementById("ran");
const more = document.getElementById("more");
let limit = PAGE;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function body(row) {
  const made = element("div", "body");
  if (row.why) made.append(element("p", "", row.why));
  if (row.reason) made.append(element("p", "reason", row.reason));
  const facts = element("dl");
  for (const [name, value] of row.facts) facts.append(element("dt", "", name), element("dd", "", value));
  const pictures = element("div", "pictures");
  pictures.innerHTML = row.pictures; // drawn and escaped when the page was written
  made.append(facts, pictures);
  if (row.reproduce) made.append(element("pre", "command", row.reproduce));
  return made;
}

function entry(row) {
  const made = element("details", `row ${row.tone}`);
  const line = element("summary");
  line.append(element("span", `chip ${row.tone}`, row.label), element("b", "", row.case), element("em", "", row.backend));
  made.append(line);
  made.addEventListener("toggle", () => made.children.length > 1 || made.append(body(row)));
  return made;
}

function update() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fitting = results.filter(
    (row, at) => (row.ran || !ran.checked) && words.every((word) => texts[at].includes(word)));
  list.replaceChildren(...fitting.slice(0, limit).map(entry));
  document.getElementById("shown").textContent = `${fitting.length.toLocaleString("en")} of ${results.length.toLocaleString("en")}`;
  more.hidden = fitting.length <= limit;
}

function restart() {
  limit = PAGE;
  update();
}

filter.addEventListener("input", restart);
ran.addEventListener("change", restart);
more.addEventListener("click", () => {
  limit += 5 * PAGE;
  update();
});
for (const cell of document.querySelectorAll("[data-filter]")) {
  cell.addEventListener("click", () => {
    filter.value = cell.dataset.filter;
    ran.checked = !("idle" in cell.dataset);
    restart();
    filter.scrollIntoView({ behavior: "smooth", block: "center" });
  });
}
for (const button of document.querySelectorAll(".op button")) {
  button.addEventListener("click", () => {
    const formats = button.closest("tbody").nextElementSibling;
    formats.hidden = !formats.hidden;
    button.setAttribute("aria-expanded", String(!formats.hidden));
  });
}
update();
