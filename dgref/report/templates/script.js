const rows = [...document.querySelectorAll("#rows > details")];
const filter = document.getElementById("filter");
const ran = document.getElementById("ran");
function update() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const fits = words.every((word) => row.dataset.text.includes(word)) && (!ran.checked || row.dataset.ran === "1");
    row.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").textContent = `${shown} of ${rows.length}`;
}
filter.addEventListener("input", update);
ran.addEventListener("change", update);
update();
