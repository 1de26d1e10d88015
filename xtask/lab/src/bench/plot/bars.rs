//! Ratios as bars from 1, with whiskers.

use anyhow::Result;
use plotters::{
    coord::types::RangedCoordf64,
    prelude::*,
    style::text_anchor::{HPos, VPos},
};

use super::{
    axis,
    style::{self, Area, FAINT, GRID, INK, Marked, anchored, cannot, colour, font},
};
use crate::bench::stats::Estimate;

const WIDTH: u32 = 960;
/// Of a bar and its surroundings.
const ROW: u32 = 25;
/// For the names, and for the numbers.
const LEFT: u32 = 210;
const RIGHT: u32 = 160;
const AXIS: u32 = 58;

pub(super) struct Bars<'a> {
    pub title: &'a str,
    pub origin: String,
    pub axis: &'a str,
    pub groups: Vec<Group>,
}

pub(super) struct Group {
    pub name: String,
    pub bars: Vec<Bar>,
}

pub(super) struct Bar {
    pub name: String,
    pub colour: usize,
    pub estimate: Estimate,
}

impl Bars<'_> {
    pub(super) fn svg(&self) -> Result<String> {
        let size = (WIDTH, 72 + AXIS + ROW * self.rows());
        style::page(size, self.title, &self.origin, |area| self.draw(area))
    }

    /// One for each bar and one for each group's name, and half of one below.
    fn rows(&self) -> u32 {
        let rows: usize = self.groups.iter().map(|group| group.bars.len() + 1).sum();
        rows as u32
    }

    /// What is drawn, whiskers included, and always 1.
    fn marks(&self) -> Vec<f64> {
        let bars = || self.groups.iter().flat_map(|group| &group.bars);
        let ends = || bars().map(|bar| bar.estimate.widest());
        let low = ends().map(|end| end.low).fold(1.0, f64::min);
        let high = ends().map(|end| end.high).fold(1.05, f64::max);
        let step = axis::step((high - low) / 8.0);
        let first = ((low - 0.02 * step) / step).floor() as i64;
        let last = ((high + 0.02 * step) / step).ceil() as i64;
        (first..=last).map(|mark| mark as f64 * step).collect()
    }

    fn draw(&self, area: &Area<'_>) -> Result<()> {
        let marks = self.marks();
        let (low, high) = (marks[0], marks[marks.len() - 1]);
        let rows = f64::from(self.rows());
        let mut chart = ChartBuilder::on(area)
            .margin_left(LEFT)
            .margin_right(RIGHT)
            .x_label_area_size(AXIS)
            .build_cartesian_2d(
                Marked::new(low, high, marks),
                // Downwards, as people read.
                rows..0.0,
            )
            .map_err(cannot)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .bold_line_style(GRID)
            .axis_style(FAINT)
            .x_label_formatter(&|x| format!("{x:.2}"))
            .x_label_style(font(16, INK))
            .x_desc(self.axis)
            .axis_desc_style(font(16, INK))
            .draw()
            .map_err(cannot)?;
        let area = chart.plotting_area();
        let mut row = 0.0;
        for group in &self.groups {
            area.draw(&label(
                low,
                row + 0.55,
                -(LEFT as i32) + 24,
                &group.name,
                18,
            ))
            .map_err(cannot)?;
            for bar in &group.bars {
                row += 1.0;
                bar.draw(area, row + 0.45, low, high)?;
            }
            row += 1.0;
        }
        let base = PathElement::new([(1.0, 0.0), (1.0, rows)], INK.stroke_width(2));
        area.draw(&base).map_err(cannot)
    }
}

type Plane<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<Marked, RangedCoordf64>>;

impl Bar {
    fn draw(&self, area: &Plane<'_>, y: f64, low: f64, high: f64) -> Result<()> {
        let paint = colour(self.colour);
        let Estimate { median, .. } = self.estimate;
        let ends = self.estimate.widest();
        let bar = Rectangle::new(
            [(1.0, y - 0.32), (median, y + 0.32)],
            paint.mix(0.75).filled(),
        );
        area.draw(&bar).map_err(cannot)?;
        for line in [
            [(ends.low, y), (ends.high, y)],
            [(ends.low, y - 0.2), (ends.low, y + 0.2)],
            [(ends.high, y - 0.2), (ends.high, y + 0.2)],
        ] {
            area.draw(&PathElement::new(line, INK.stroke_width(1)))
                .map_err(cannot)?;
        }
        let dot = Circle::new((median, y), 3, INK.filled());
        area.draw(&dot).map_err(cannot)?;
        area.draw(&label(low, y, -(LEFT as i32) + 36, &self.name, 16))
            .map_err(cannot)?;
        let numbers = format!("{median:.2}  [{:.2}, {:.2}]", ends.low, ends.high);
        area.draw(&label(high, y, 14, &numbers, 16)).map_err(cannot)
    }
}

/// Text beside the place (x, y), its middle at that height.
fn label<'a>(
    x: f64,
    y: f64,
    right: i32,
    text: &str,
    size: u32,
) -> DynElement<'a, SVGBackend<'a>, (f64, f64)> {
    let style = anchored(font(size, INK), HPos::Left, VPos::Center);
    (EmptyElement::at((x, y)) + Text::new(text.to_owned(), (right, 0), style)).into_dyn()
}
