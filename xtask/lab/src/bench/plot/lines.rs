//! How something changes along a sweep: a line for each arm.

use anyhow::Result;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, VPos},
};

use super::{
    axis::{Axis, Steps},
    style::{self, Area, FAINT, GRID, INK, Marked, anchored, cannot, colour, font},
};
use crate::bench::{
    names::{Unit, thousands},
    stats::Estimate,
};

const SIZE: (u32, u32) = (960, 520);
/// For the key.
const RIGHT: u32 = 220;

pub(super) struct Lines<'a> {
    pub title: &'a str,
    pub origin: String,
    pub x: String,
    pub y: String,
    pub unit: Unit,
    pub lines: Vec<Line>,
}

pub(super) struct Line {
    pub name: String,
    pub colour: usize,
    /// By ascending value, at least one.
    pub spots: Vec<Spot>,
}

#[derive(Clone, Copy)]
pub(super) struct Spot {
    pub value: u64,
    pub estimate: Estimate,
}

impl Lines<'_> {
    pub(super) fn svg(&self) -> Result<String> {
        style::page(SIZE, self.title, &self.origin, |area| self.draw(area))
    }

    fn spots(&self) -> impl Iterator<Item = &Spot> {
        self.lines.iter().flat_map(|line| &line.spots)
    }

    fn draw(&self, area: &Area<'_>) -> Result<()> {
        let ends = || self.spots().map(|spot| spot.estimate.widest());
        let low = ends().map(|end| end.low).fold(f64::INFINITY, f64::min);
        let high = ends().map(|end| end.high).fold(0.0, f64::max);
        let heights = Axis::of(low, high);
        let steps = Steps::new(self.spots().map(|spot| spot.value).collect());
        let places = steps.places();
        let edge = 0.04 * (places[places.len() - 1] - places[0]);
        let marks = heights.marks.iter().map(|&mark| heights.place(mark));
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(RIGHT)
            .x_label_area_size(60)
            .y_label_area_size(100)
            .build_cartesian_2d(
                Marked::new(
                    places[0] - edge,
                    places[places.len() - 1] + edge,
                    places.clone(),
                ),
                Marked::new(heights.range.0, heights.range.1, marks.collect()),
            )
            .map_err(cannot)?;
        let scale = if heights.is_log { ", log scale" } else { "" };
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .axis_style(FAINT)
            .x_labels(places.len())
            .y_labels(heights.marks.len())
            .x_label_formatter(&|place| steps.value(*place).map(thousands).unwrap_or_default())
            .y_label_formatter(&|place| self.unit.show(heights.value(*place)))
            .x_desc(format!("{}, log scale", self.x))
            .y_desc(format!("{}{scale}", self.y))
            .label_style(font(16, INK))
            .axis_desc_style(font(16, INK))
            .draw()
            .map_err(cannot)?;
        for line in &self.lines {
            let paint = colour(line.colour);
            let at = |value, height| (steps.place(value), heights.place(height));
            // 0 has no place on a logarithmic axis, so no line leads there.
            let joined = line.spots.iter().filter(|spot| spot.value > 0);
            let path = joined.map(|spot| at(spot.value, spot.estimate.median));
            chart
                .draw_series(LineSeries::new(path, paint.stroke_width(2)))
                .map_err(cannot)?;
            for Spot { value, estimate } in &line.spots {
                let ends = estimate.widest();
                let whisker = [at(*value, ends.low), at(*value, ends.high)];
                let area = chart.plotting_area();
                area.draw(&PathElement::new(whisker, paint.stroke_width(1)))
                    .map_err(cannot)?;
                area.draw(&mark(line.colour, at(*value, estimate.median)))
                    .map_err(cannot)?;
            }
        }
        self.draw_key(area)
    }

    /// The arms, the dearest first, as their lines end.
    fn draw_key(&self, area: &Area<'_>) -> Result<()> {
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        let last = |line: &Line| line.spots.last().map_or(0.0, |spot| spot.estimate.median);
        lines.sort_by(|a, b| last(b).total_cmp(&last(a)));
        let left = (SIZE.0 - RIGHT + 14) as i32;
        for (row, line) in lines.iter().enumerate() {
            let y = 24 + 26 * row as i32;
            let dash = PathElement::new(
                [(left, y), (left + 28, y)],
                colour(line.colour).stroke_width(2),
            );
            area.draw(&dash).map_err(cannot)?;
            area.draw(&mark(line.colour, (left + 14, y)))
                .map_err(cannot)?;
            let style = anchored(font(16, INK), HPos::Left, VPos::Center);
            style::write(area, &line.name, (left + 38, y), style)?;
        }
        Ok(())
    }
}

/// Of each arm another.
fn mark<'a, C: Clone + 'static>(index: usize, at: C) -> DynElement<'a, SVGBackend<'a>, C> {
    let paint = colour(index).filled();
    match index % 4 {
        0 => Circle::new(at, 4, paint).into_dyn(),
        1 => TriangleMarker::new(at, 6, paint).into_dyn(),
        2 => Cross::new(at, 5, colour(index).stroke_width(2)).into_dyn(),
        _ => Circle::new(at, 5, colour(index).stroke_width(2)).into_dyn(),
    }
}
