"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const narrow = window.matchMedia("(max-width: 600px)").matches;
const options = { responsive: true, displaylogo: false, displayModeBar: false };
for (const [id, figure] of Object.entries(figures)) {
  if (narrow) {
    figure.layout.margin = { ...figure.layout.margin, l: 44, r: 8, b: 90 };
    figure.layout.legend = { orientation: "h", y: -0.35 };
  }
  Plotly.newPlot(id, figure.data, figure.layout, options);
}
window.addEventListener("beforeprint", () => {
  for (const id of Object.keys(figures)) Plotly.Plots.resize(id);
});
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "copied";
  });
}
