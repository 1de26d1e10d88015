//! Colours, letters and marks.

use anyhow::{Result, anyhow};
use plotters::{
    coord::{
        Shift,
        ranged1d::{DefaultFormatting, KeyPointHint, Ranged},
        types::RangedCoordf64,
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(super) const FAINT: RGBColor = RGBColor(0x66, 0x66, 0x66);
pub(super) const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);

/// By the order of the arms; the first is no redirection.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x55, 0x55, 0x55),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x8a, 0x6d, 0x3b),
];

pub(super) fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

pub(super) fn font(size: u32, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour)
}

pub(super) fn anchored(style: TextStyle<'_>, h: HPos, v: VPos) -> TextStyle<'_> {
    style.pos(Pos::new(h, v))
}

/// An axis with marks where we want them, and nowhere else.
pub(super) struct Marked {
    inner: RangedCoordf64,
    marks: Vec<f64>,
}

impl Marked {
    pub(super) fn new(from: f64, to: f64, marks: Vec<f64>) -> Self {
        Self {
            inner: (from..to).into(),
            marks,
        }
    }
}

impl Ranged for Marked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.inner.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Finer lines between the marks are not wanted.
        if hint.weight().allow_light_points() {
            Vec::new()
        } else {
            self.marks.clone()
        }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.inner.range()
    }
}

/// A white page with a title and where it comes from; draws the rest with `draw`.
pub(super) fn page(
    size: (u32, u32),
    title: &str,
    origin: &str,
    draw: impl FnOnce(&Area<'_>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let page = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        page.fill(&WHITE).map_err(cannot)?;
        write(&page, title, (24, 16), font(25, INK))?;
        write(&page, origin, (24, 48), font(16, FAINT))?;
        draw(&page.margin(72, 0, 0, 0))?;
        page.present().map_err(cannot)?;
    }
    Ok(svg)
}

pub(super) fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    style: TextStyle<'_>,
) -> Result<()> {
    area.draw_text(text, &style, at).map_err(cannot)
}

/// The errors of plotters carry those of its backend, which none of ours has.
pub(super) fn cannot(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing a plot: {error}")
}
