"""The page's style sheet: paper and ink, light and dark, wide, narrow and printed."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f7f7f5; --card: #ffffff; --ink: #1b1d22; --soft: #575e69; --rule: #e2e3df;
  --accent: #4f43dd; --wash: #eeedfb; --good: #17714a; --bad: #b3261e; --warn: #8a5500;
  --good-wash: #e6f3ec; --bad-wash: #fcebea; --warn-wash: #fbf1de; --soft-wash: #eff0ee;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121418; --card: #191c22; --ink: #e9eaed; --soft: #a3aab6; --rule: #2c313a;
    --accent: #a7a1f5; --wash: #25253a; --good: #6bcf9b; --bad: #ff938a; --warn: #ecbd63;
    --good-wash: #17302a; --bad-wash: #3a2120; --warn-wash: #352b18; --soft-wash: #24282f;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    "Noto Sans", "Liberation Sans", sans-serif;
}
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 44px; }
.eyebrow {
  margin: 0 0 6px; color: var(--accent); font-size: 12px; font-weight: 650;
  letter-spacing: .09em; text-transform: uppercase;
}
h1 { margin: 0; font-size: 33px; line-height: 1.15; font-weight: 680; letter-spacing: -.018em; }
h2 { margin: 52px 0 4px; font-size: 20px; line-height: 1.3; font-weight: 650;
  letter-spacing: -.008em; }
h3 { margin: 0; font-size: 14px; font-weight: 600; }
p { margin: 0 0 12px; }
.lead { color: var(--soft); margin: 8px 0 0; max-width: 76ch; }
.note { color: var(--soft); max-width: 84ch; margin: 0 0 16px; font-size: 14px; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 18px 0 0; padding: 0; }
.facts div { display: flex; gap: 8px; min-width: 0; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; font-weight: 550; overflow-wrap: anywhere; }
code, .mono { font: 12.5px/1.5 ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas,
  "Liberation Mono", monospace; overflow-wrap: anywhere; }
.verdict { display: flex; gap: 14px; align-items: flex-start; margin: 26px 0 0;
  padding: 16px 20px; border-radius: 12px; border: 1px solid; }
.verdict strong { display: block; font-size: 17px; line-height: 1.35; }
.verdict span { color: var(--ink); }
.verdict .mark { font-size: 20px; line-height: 1.2; font-weight: 700; }
.verdict.good { background: var(--good-wash); border-color: var(--good); color: var(--good); }
.verdict.bad { background: var(--bad-wash); border-color: var(--bad); color: var(--bad); }
.verdict.warn { background: var(--warn-wash); border-color: var(--warn); color: var(--warn); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 12px;
  margin: 20px 0 0; padding: 0; }
.figures div { background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: 14px 16px 12px; display: flex; flex-direction: column; }
.figures dt { color: var(--soft); font-size: 13px; }
.figures dd { margin: 2px 0 0; font-size: 27px; line-height: 1.25; font-weight: 660;
  letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.figures dd small { font-size: 15px; font-weight: 500; color: var(--soft); letter-spacing: 0; }
.figures dd.why { font-size: 12.5px; line-height: 1.4; font-weight: 400; color: var(--soft);
  letter-spacing: 0; margin-top: 4px; }
.pill { display: inline-flex; gap: 6px; align-items: baseline; padding: 1px 9px 1px 8px;
  border-radius: 99px; font-size: 12.5px; font-weight: 600; line-height: 1.6;
  white-space: nowrap; }
.pill.good { color: var(--good); background: var(--good-wash); }
.pill.bad { color: var(--bad); background: var(--bad-wash); }
.pill.warn { color: var(--warn); background: var(--warn-wash); }
.pill.soft { color: var(--soft); background: var(--soft-wash); }
.needs { list-style: none; margin: 14px 0 0; padding: 0; background: var(--card);
  border: 1px solid var(--rule); border-radius: 12px; }
.needs li { display: grid; grid-template-columns: 128px 1fr; gap: 4px 16px; padding: 11px 18px;
  border-top: 1px solid var(--rule); }
.needs li:first-child { border-top: 0; }
.needs b { overflow-wrap: anywhere; font-weight: 600; }
.needs .says { display: block; color: var(--soft); overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr));
  gap: 12px; margin: 16px 0 0; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: 14px 16px 8px; min-width: 0; }
figcaption { display: flex; justify-content: space-between; gap: 12px; margin-bottom: 6px;
  font-size: 13.5px; font-weight: 600; }
figcaption span { color: var(--soft); font-weight: 450; text-align: right; }
svg { display: block; max-width: 100%; }
svg.chart { width: 100%; height: auto; }
svg.chart text { fill: var(--soft); font-size: 11px; }
svg .axis { stroke: var(--rule); fill: none; }
svg .line { stroke: var(--accent); stroke-width: 1.8; fill: none; stroke-linejoin: round; }
svg .area { fill: var(--wash); }
svg .bars, svg .dot { fill: var(--accent); }
svg .good { fill: var(--good); }
svg .late { fill: var(--warn); }
svg .missing { fill: none; stroke: var(--bad); }
svg.bar .missing { fill: var(--bad); stroke: none; }
svg .none { fill: var(--rule); }
svg .track { fill: var(--rule); }
svg .limit { fill: var(--ink); }
svg.bar { margin: 6px 0 2px; }
svg.strip { margin: 2px 0 3px; }
.sheet { background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  overflow: hidden; margin: 16px 0 0; }
table { width: 100%; border-collapse: collapse; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: 12px 16px 8px; font-size: 13px; }
th, td { text-align: left; vertical-align: top; padding: 9px 10px; overflow-wrap: anywhere; }
th:first-child, td:first-child { padding-left: 16px; }
th:last-child, td:last-child { padding-right: 16px; }
thead th { color: var(--soft); font-weight: 550; font-size: 12.5px; vertical-align: bottom;
  border-bottom: 1px solid var(--rule); background: var(--card); overflow-wrap: normal; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
tbody + tbody { border-top: 1px solid var(--rule); }
tr.group th { background: var(--soft-wash); font-size: 14px; font-weight: 620; padding: 8px 16px; }
tr.group .pill { margin-left: 10px; }
td .sub, th .sub { display: block; color: var(--soft); font-size: 12.5px; font-weight: 400; }
td.number, th.number { text-align: right; }
.key { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 10px 0 0; padding: 0;
  color: var(--soft); font-size: 13px; list-style: none; }
.key li { display: flex; align-items: center; gap: 7px; }
dl.means { display: grid; grid-template-columns: minmax(130px, 190px) 1fr; gap: 10px 24px;
  margin: 16px 0 0; }
dl.means dt { font-weight: 600; }
dl.means dd { margin: 0; color: var(--soft); max-width: 84ch; }
footer { color: var(--soft); font-size: 13px; padding-top: 40px; padding-bottom: 56px; }
@media (max-width: 820px) {
  main, header, footer { padding-left: 16px; padding-right: 16px; }
  header { padding-top: 28px; }
  h1 { font-size: 27px; }
  h2 { margin-top: 40px; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .figures dd { font-size: 23px; }
  .needs li { grid-template-columns: 1fr; }
  .needs .pill { justify-self: start; }
  table, tbody, tr, th, td { display: block; width: 100%; }
  caption { display: block; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tbody tr { padding: 8px 0; }
  tbody tr + tr > * { border-top: 0; }
  tbody tr + tr { border-top: 1px solid var(--rule); }
  tr.group { padding: 0; }
  th, td, th:first-child, td:first-child { padding: 3px 16px; }
  tbody td { display: grid; grid-template-columns: 116px minmax(0, 1fr); gap: 0 12px; }
  tbody td::before { content: attr(data-label); color: var(--soft); font-size: 12.5px;
    padding-top: 1px; }
  td > div { min-width: 0; }
  td.number, th.number { text-align: left; }
  tbody th[scope="row"] { font-weight: 620; }
  dl.means { grid-template-columns: 1fr; gap: 2px; }
  dl.means dd { margin-bottom: 12px; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #ccc; --accent: #4f43dd;
    --wash: #eeedfb; --good: #17714a; --bad: #b3261e; --warn: #8a5500; --good-wash: #fff;
    --bad-wash: #fff; --warn-wash: #fff; --soft-wash: #f4f4f4;
  }
  body { font-size: 11px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main, header, footer { max-width: none; padding: 0; }
  .sheet { overflow: visible; border-radius: 0; }
  thead { display: table-header-group; }
  tr, figure, .figures div, .needs li { break-inside: avoid; }
  h2 { break-after: avoid; }
  table { font-size: 9.5px; }
  th, td { padding: 4px 6px; }
  @page { size: A4 landscape; margin: 12mm; }
}
"""
