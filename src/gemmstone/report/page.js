"use strict";
(() => {
  const PRINT_WIDTH_PX = 680; // an A4 page between its margins
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const narrow = window.matchMedia("(max-width: 600px)").matches;
  const options = {
    responsive: true,
    displaylogo: false,
    displayModeBar: touch || narrow ? false : "hover",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    toImageButtonOptions: { format: "svg" },
  };
  const drawn = [];
  for (const [name, figure] of Object.entries(figures)) {
    const place = document.getElementById(`chart-${name}`);
    if (!place) continue;
    const layout = figure.layout;
    layout.autosize = true;
    if (touch) layout.dragmode = false; // a finger scrolls the page
    if (narrow) {
      layout.font.size = 11;
      for (const note of layout.annotations ?? []) note.font.size = 9;
      layout.margin = { ...layout.margin, l: 48, r: 8 };
      if (layout.meta?.legend_in_table) layout.showlegend = false;
    }
    Plotly.newPlot(place, figure.data, layout, options);
    drawn.push(place);
  }

  const closed = [];
  window.addEventListener("beforeprint", () => {
    for (const place of drawn) Plotly.relayout(place, { autosize: false, width: PRINT_WIDTH_PX });
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      closed.push(details);
    }
  });
  window.addEventListener("afterprint", () => {
    for (const place of drawn) Plotly.relayout(place, { autosize: true, width: null });
    for (const details of closed.splice(0)) details.open = false;
  });

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Pages opened from a file may not use the clipboard directly.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) throw new Error("the browser refuses to copy");
    }
  }
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      try {
        await copy(document.getElementById(button.dataset.copy).textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Select and copy by hand";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
})();
