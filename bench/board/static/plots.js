// Figures: what they show stands beside them as JSON.
"use strict";
(() => {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  for (const source of document.querySelectorAll("script[data-plot]")) {
    const { traces, layout } = JSON.parse(source.textContent);
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
    const whole = {
      margin: { l: 60, r: 16, t: 12, b: 60 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--text") }, legend: { orientation: "h", y: -0.25 }, hovermode: "closest", ...layout,
      xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
    };
    window.Plotly.newPlot(source.dataset.plot, traces, whole, { responsive: true, displaylogo: false });
  }
})();
